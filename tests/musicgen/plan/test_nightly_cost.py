"""What a night costs does not grow with the parts of all nights before, but with their number: requests are counted."""

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from musicgen.dataset import Dataset, folded_runs, huggingface_table, open_dataset, paths, remove_clips
from musicgen.dataset.card import publish_card
from musicgen.dataset.manifest_rows import write_manifest_rows
from musicgen.dataset.metadata_columns import choose_metadata_types
from musicgen.dataset.run_keys import RUN_KEYS_SCHEMA, RunCounts
from musicgen.dataset.run_report import read_report, write_report
from musicgen.dataset.status import run_statuses, write_missing_run_keys
from musicgen.errors import RowError
from musicgen.plan.history import History
from musicgen.storage import Store, open_store, s3_store
from musicgen.storage.parquet_writer import encode_parquet
from tests.fixtures.forged_nights import forge_info, forge_keys, forge_night
from tests.fixtures.planning import make_shard

NIGHTS, PARTS = 12, 8
ROWS = "prompt,id\none,a\ntwo,b\nthree,c\nfour,d\n"


@pytest.fixture
def requests(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Counts the requests to a bucket by the object that they are for; None: a page of a listing."""
    counter: Counter[str] = Counter()
    original = s3_store.send_request

    def count(request: Any, location: Any, path: str | None, **options: Any) -> Any:
        counter[path or "listing"] += 1
        return original(request, location, path, **options)

    monkeypatch.setattr(s3_store, "send_request", count)
    return counter


def of_nights(requests: Counter[str], runs: list[str]) -> list[int]:
    """The number of objects of each run that were asked for."""
    return [sum(run in path for path in requests) for run in runs]


@pytest.fixture
def nights(s3, monkeypatch: pytest.MonkeyPatch) -> tuple[Store, list[str]]:
    monkeypatch.setattr(huggingface_table, "MAX_TABLE_ROWS", 100)
    store = open_store(s3.uri)
    return store, [forge_night(store, night, PARTS, refused=2, cost=3.0) for night in range(NIGHTS)]


def test_plan_status_and_publishing_cost_two_objects_a_night(
    nights: tuple[Store, list[str]], requests: Counter[str], tmp_path: Path
) -> None:
    store, runs = nights
    before = run_statuses(open_dataset(store.uri))
    publish_card(open_dataset(store.uri))  # the first one after nights of an earlier release
    requests.clear()
    statuses = run_statuses(open_dataset(store.uri))
    assert [(run.made, run.audio_s, run.state, run.cost) for run in statuses] == [
        (2 * PARTS, 0.1 * 2 * PARTS, "complete", 3.0)
    ] * NIGHTS
    assert [run.to_json() for run in statuses] == [run.to_json() for run in before]
    assert of_nights(requests, runs) == [2] * NIGHTS
    assert requests.total() <= 2 * NIGHTS + 8, requests

    requests.clear()
    listing = History(store, tmp_path).refresh()
    assert len(listing.runs) == NIGHTS
    assert of_nights(requests, runs) == [2] * NIGHTS
    assert requests.total() <= 2 * NIGHTS + 8, requests
    read = {
        name: pa.concat_tables([pq.read_table(path) for path in tmp_path.glob(f"{name}-*.parquet")])
        for name in ("made", "failed", "known_invalid")
    }
    assert [table.num_rows for table in read.values()] == [2 * PARTS * NIGHTS, 0, 2 * NIGHTS]
    assert len(pc.unique(read["known_invalid"]["part"])) == NIGHTS

    new = forge_night(store, NIGHTS, PARTS)
    requests.clear()
    card = publish_card(open_dataset(store.uri))
    assert f"{2 * PARTS * (NIGHTS + 1)} clips" in card.text
    assert "index/**/*.parquet" in card.text, "too many rows for a table: the index is read"
    assert max(of_nights(requests, runs)) <= 3, "a part of the first run tells the columns"
    assert requests.total() - sum(count for path, count in requests.items() if new in path) <= 2 * NIGHTS + 40, requests


def test_what_plan_and_status_read_of_old_runs_is_folded_into_one_object(
    s3, requests: Counter[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_table, "MAX_TABLE_ROWS", 1)
    monkeypatch.setattr(folded_runs, "FOLDED_AT_ONCE", 4)
    store, parts = open_store(s3.uri), 3
    dataset = Dataset(store, forge_info(store))

    def read_keys(name: str) -> list[int]:
        """The keys that a plan reads, of all runs."""
        (tmp_path / name).mkdir()
        requests.clear()
        History(store, tmp_path / name).refresh()
        return sorted(
            key for path in (tmp_path / name).glob("made-*.parquet") for key in pq.read_table(path)["k1"].to_pylist()
        )

    runs = [forge_night(store, night, parts, refused=2, cost=3.0) for night in range(6)]
    before, keys = [run.to_json() for run in run_statuses(dataset)], read_keys("before")
    publish_card(dataset)
    requests.clear()
    assert [run.to_json() for run in run_statuses(dataset)] == before
    assert (of_nights(requests, runs), requests.total() < 10) == ([0] * 6, True), requests
    assert (read_keys("folded"), of_nights(requests, runs)) == (keys, [0] * 6)
    assert requests.total() < 10, requests

    report = read_report(store, runs[1])
    assert report is not None
    write_report(store, replace(report, sessions=(replace(report.sessions[0], started_at="later"),)))
    assert [run.cost for run in run_statuses(dataset)].count(6.0) == 1, "another driver's work was recorded later"
    new = forge_night(store, 6, parts)
    requests.clear()
    publish_card(dataset)
    assert sum(of_nights(requests, runs)) <= 2, "a part of the first run tells the columns"
    more = read_keys("more")
    assert (len(more), of_nights(requests, [*runs, new])) == (7 * 2 * parts, [0] * 6 + [2])

    replaced = paths.index_part(runs[2], 1)
    table = pq.read_table(pa.BufferReader(content := store.read(replaced)))
    store.write(replaced, encode_parquet(table.replace_schema_metadata(None)))
    assert (read_keys("replaced"), of_nights(requests, runs)[2]) == (more, parts + 1), (
        "its parts and refused rows are read"
    )
    store.write(replaced, content)
    folded = store.read(paths.FOLDED_RUNS)
    for number, damaged in enumerate((folded[:-100], folded[:40] + bytes([folded[40] ^ 1]) + folded[41:])):
        store.write(paths.FOLDED_RUNS, damaged)
        assert read_keys(f"damaged-{number}") == more
    monkeypatch.setattr(folded_runs, "FOLDED_AT_ONCE", 1)
    publish_card(dataset)
    assert (read_keys("again"), of_nights(requests, [*runs, new])) == (more, [0] * 7)


def test_numbers_beyond_int64_are_known_without_reading_the_parts_of_all_nights(s3, requests: Counter[str]) -> None:
    store, types = open_store(s3.uri), {"hash": pa.uint64(), "year": pa.uint64()}
    runs = []
    for night, largest in enumerate((2**64 - 1, 7)):
        carried = pa.table({"hash": [largest, 1], "year": [1, 2]}, pa.schema([*types.items()]))
        runs.append(forge_night(store, night, 3, carried=carried))
    dataset = open_dataset(store.uri)
    before = choose_metadata_types(dataset)
    write_missing_run_keys(dataset)
    requests.clear()
    schema = choose_metadata_types(dataset)
    assert (schema.field("hash").type, schema.field("year").type) == (pa.string(), pa.uint64())
    assert schema == before
    assert sum(path.startswith(paths.index_folder(run)) for path in requests for run in runs) <= 2, requests


@pytest.mark.parametrize(
    ("path", "audio"), [pytest.param(paths.METADATA, None, marks=pytest.mark.slow), (paths.HUGGINGFACE_COPY, b"fLaC")]
)
def test_the_table_is_written_from_the_earlier_one_and_the_new_parts(
    s3, requests: Counter[str], path: str, audio: bytes | None
) -> None:
    store, parts = open_store(s3.uri), 4
    runs = [forge_night(store, night, parts, audio=audio) for night in range(4)]
    dataset = open_dataset(store.uri)
    publish_card(dataset)
    new = forge_night(store, 4, parts, audio=audio)
    requests.clear()
    publish_card(dataset)
    assert max(of_nights(requests, runs)) <= 3, "its key file, and a part of the first run, which tells the columns"
    assert of_nights(requests, [new])[0] > parts
    clips = 2 * parts if audio else 0
    assert sum(path.startswith(paths.AUDIO) for path in requests) == clips, "of the new run alone"
    _compare_with_new_table(dataset, path)

    key = dataset.run(runs[1]).to_arrow(["key"])["key"][3].as_py()
    remove_clips(dataset, [key])
    replaced = paths.index_part(runs[2], 3)
    part = pq.read_table(pa.BufferReader(store.read(replaced)))
    prompts = pa.array(["q"] * part.num_rows)
    part = part.set_column(part.schema.get_field_index("prompt"), part.schema.field("prompt"), prompts)
    with pa.BufferOutputStream() as sink:
        pq.write_table(part, sink)
        store.write(replaced, sink.getvalue().to_pybytes())
    requests.clear()
    publish_card(dataset)
    read = [sum(path.startswith(paths.index_folder(run)) for path in requests) for run in runs]
    assert (read[0] <= 1, read[3]) == (True, 0), "only runs are read whose parts or removed clips have changed"
    keys = _compare_with_new_table(dataset, path)
    assert key not in keys
    assert len(keys) == 2 * parts * 5 - 1
    table = pq.read_table(pa.BufferReader(store.read(path)))
    assert table["prompt"].to_pylist().count("q") == part.num_rows

    content = bytearray(store.read(path))
    content[len(content) // 2] ^= 1
    store.write(path, bytes(content))
    publish_card(dataset)
    assert _compare_with_new_table(dataset, path) == keys, "a damaged table is not used"


def _compare_with_new_table(dataset: Dataset, path: str) -> list[str]:
    """Compare the table with one that is written without the earlier one; returns its keys."""
    table = pq.read_table(pa.BufferReader(dataset.store.read(path)))
    dataset.store.delete(path)
    publish_card(dataset)
    assert table.equals(pq.read_table(pa.BufferReader(dataset.store.read(path))))
    keys: list[str] = table["key"].to_pylist()
    assert keys == dataset.to_arrow(["key"])["key"].to_pylist()
    return keys


@pytest.mark.parametrize(
    ("layout", "audio"),
    [
        ("parquet", b"fLaC"),
        *(pytest.param(*case, marks=pytest.mark.slow) for case in [("parquet", None), ("webdataset", None)]),
        *(pytest.param("files", audio, marks=pytest.mark.slow) for audio in (b"fLaC", None)),
    ],
)
def test_the_current_table_is_written_without_the_parts_of_earlier_runs(
    s3, requests: Counter[str], tmp_path: Path, layout: str, audio: bytes | None
) -> None:
    store, parts = open_store(s3.uri), 2
    runs: list[str] = []
    for night in range(3):
        runs.append(forge_night(store, night, parts, layout=layout, audio=audio))
        keys = [key for run in reversed(runs) for shard in range(parts) for key in forge_keys(run, shard)]
        write_manifest_rows(store, runs[-1], [pa.chunked_array([keys], pa.string())], tmp_path)
        dataset = open_dataset(store.uri)
        requests.clear()
        publish_card(dataset)
        read = [sum(path.startswith(paths.index_folder(run)) for path in requests) for run in runs]
        assert max([0, *read[1:-1]]) == 0, read  # a part of the first run tells the columns
    table = pq.read_table(pa.BufferReader(store.read(paths.CURRENT_COPY)))
    assert table["key"].to_pylist() == keys
    remove_clips(dataset, [keys.pop(3)])
    publish_card(dataset)
    _compare_current(dataset, keys)
    content = bytearray(store.read(paths.CURRENT_COPY))
    content[len(content) // 2] ^= 1
    store.write(paths.CURRENT_COPY, bytes(content))
    publish_card(dataset)
    _compare_current(dataset, keys)


def _compare_current(dataset: Dataset, keys: list[str]) -> None:
    """Compare the table of the current rows with one that is written from the index alone."""
    table = pq.read_table(pa.BufferReader(dataset.store.read(paths.CURRENT_COPY)))
    assert table["key"].to_pylist() == keys
    for path in (paths.CURRENT_COPY, paths.METADATA, paths.HUGGINGFACE_COPY):
        dataset.store.delete(path)
    publish_card(dataset)
    assert table.equals(pq.read_table(pa.BufferReader(dataset.store.read(paths.CURRENT_COPY))))


def test_a_run_without_a_key_file_or_with_other_parts_is_read_part_by_part(submit, tmp_path: Path) -> None:
    out = tmp_path / "out"
    store = open_store(str(out))
    failing = {"two": RowError("crash", "killed its process")}
    outcome = submit(ROWS, "cluster.shard_rows=2")
    for shard in outcome.plan.shards:
        make_shard(store, outcome.plan, shard, failing)
    run = outcome.plan.run
    plain = submit(ROWS)
    assert (plain.plan, plain.made, plain.held_back) == (None, 3, 1)
    write_missing_run_keys(open_dataset(str(out)))
    (file,) = (out / "runs" / run).glob("keys-*.parquet")
    table = pq.read_table(file)
    assert table.schema.remove_metadata() == RUN_KEYS_SCHEMA
    assert table["error_class"].to_pylist().count("crash") == 1
    again = submit(ROWS)
    assert (again.plan, again.made, again.held_back, again.held_back_classes) == (None, 3, 1, {"crash": 1})
    (out / paths.index_part(run, 1)).rename(tmp_path / "part")
    assert submit(ROWS).new == 2, "a part that was removed is pending, whatever the key file says"
    (tmp_path / "part").rename(out / paths.index_part(run, 1))
    file.write_bytes(file.read_bytes()[:-20] + b"\0" * 20)
    damaged = submit(ROWS)
    assert (damaged.plan, damaged.made, damaged.held_back) == (None, 3, 1)
    assert [status.made for status in run_statuses(open_dataset(str(out)))] == [3]


def test_counts_add_up_for_a_closed_run(submit, tmp_path: Path) -> None:
    out = tmp_path / "out"
    store = open_store(str(out))
    first = submit(ROWS, "cluster.shard_rows=2")
    make_shard(store, first.plan, 0)
    second = submit("prompt,id\nfour,d\n", "output.supersede_unfinished=true")
    make_shard(store, second.plan, 0)
    before = run_statuses(open_dataset(str(out)))
    publish_card(open_dataset(str(out)))
    assert len(list(out.glob("runs/*/keys-*.parquet"))) == 2
    for part in out.glob("index/*/part-*.parquet"):
        part.write_bytes(bytes(part.stat().st_size))  # nobody reads them
    assert [status.to_json() for status in run_statuses(open_dataset(str(out)))] == [run.to_json() for run in before]
    assert {(run.closed, run.closed_by) for run in before} == {(2, second.plan.run), (0, None)}
    assert RunCounts.of("r", []).audio_bytes == 0


def test_above_the_size_of_a_table_load_dataset_reads_the_index(submit, tmp_path: Path, monkeypatch) -> None:
    import datasets

    monkeypatch.setattr(huggingface_table, "MAX_TABLE_ROWS", 1)
    out = tmp_path / "out"
    outcome = submit(ROWS, "cluster.shard_rows=2")
    for shard in outcome.plan.shards:
        make_shard(open_store(str(out)), outcome.plan, shard)
    publish_card(open_dataset(str(out)))
    assert not list(out.glob("*.parquet"))
    folder = str(out)
    clips = datasets.load_dataset(folder, split="train", cache_dir=str(tmp_path / "cache"))
    clips = clips.map(lambda path: {"audio": f"{folder}/{path}"}, input_columns="audio")
    clips = clips.cast_column("audio", datasets.Audio(decode=False))
    assert [Path(row["audio"]["path"]).read_bytes()[:4] for row in clips] == [b"fLaC"] * 4
    current = datasets.load_dataset(folder, "current", split="train", cache_dir=str(tmp_path / "cache"))
    assert list(current["key"]) == list(open_dataset(folder).current().keys())
