"""The view of today: `Dataset.current()` and `load_dataset(folder, "current")` give the latest manifest's rows."""

import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from musicgen.dataset import current_rows, huggingface_table, open_dataset, paths
from musicgen.dataset.card import publish_card
from musicgen.dataset.manifest_rows import check_manifest_rows, find_current_run
from musicgen.errors import RowError, StoreError
from musicgen.plan import PlanOutcome, pending_shards
from musicgen.storage import open_store
from tests.fixtures.planning import make_shard, publish
from tests.fixtures.watched_store import WatchedStore

HEADER = "prompt,id\n"
FIRST = ("one,a", "two,b", "three,c")
LAYOUTS = ["files", "parquet", "webdataset"]
OTHER_LAYOUTS = [pytest.param(layout, marks=pytest.mark.slow) for layout in ("parquet", "webdataset")]


def run(
    submit: Any, output: str, rows: tuple[str, ...], *overrides: str, failing: dict[str, RowError] | None = None
) -> PlanOutcome:
    """Plan a job and finish its run, as `musicgen run` does."""
    outcome = submit(HEADER + "".join(f"{row}\n" for row in rows), "cluster.shard_rows=2", *overrides, output=output)
    if outcome.plan is not None:
        store = open_store(output)
        for shard in pending_shards(store, outcome.plan):
            make_shard(store, outcome.plan, shard, failing)
        publish_card(open_dataset(output))
        publish(store, outcome.plan)
    return outcome


def prompts(output: str) -> list[str]:
    return open_dataset(output).current().to_arrow(["prompt"])["prompt"].to_pylist()


@pytest.mark.parametrize("layout", ["s3", *OTHER_LAYOUTS])
def test_the_current_rows_are_those_of_the_latest_manifest_in_its_order(
    submit, tmp_path: Path, layout: str, request: pytest.FixtureRequest
) -> None:
    """The examples of docs/dataset.md: a changed prompt, a deleted row, a changed default, another order."""
    output = str(tmp_path / "out")
    if layout == "s3":
        output, layout = f"{request.getfixturevalue('s3').uri}/out", "files"
    as_layout = f"audio.layout={layout}"
    steps: list[tuple[tuple[str, ...], list[str], list[str], int]] = [
        (FIRST, [], ["one", "two", "three"], 3),
        (("one,a", "another,b", "three,c"), [], ["one", "another", "three"], 1),
        (("three,c", "one,a", "two,b"), [], ["three", "one", "two"], 0),
        (("one,a", "three,c"), [], ["one", "three"], 0),
        (("one,a", "three,c"), ["generation.duration_s=4"], ["one", "three"], 2),
        (FIRST, [], ["one", "two", "three"], 0),
    ]
    indexed = 0
    for rows, settings, expected, new in steps:
        outcome = run(submit, output, rows, as_layout, *settings)
        assert (outcome.new, outcome.becomes_current) == (new, not new)
        current = open_dataset(output).current()
        table = current.to_arrow()
        assert table["prompt"].to_pylist() == expected
        assert table.schema == open_dataset(output).schema()
        assert set(table["duration_s"].to_pylist()) == {0.1}
        samples, rate = current.audio(table.slice(0, 1).to_pylist()[0])
        assert (samples.shape, rate) == ((1, 3200), 32000)
        indexed += new
        assert len(open_dataset(output)) == indexed
        assert outcome.unasked + len(expected) - new == indexed - new
        assert check_manifest_rows(open_store(output), current.run) is None
    assert run(submit, output, rows, as_layout, *settings).plan is None, "the view has not changed"
    assert len(current) == len(list(current.keys())) == 3


def load_keys(folder: str, cache: Path, config: str = "current") -> list[str]:
    import datasets

    clips = datasets.load_dataset(folder, config, split="train", cache_dir=str(cache))
    column = next(name for name in clips.column_names if isinstance(clips.features[name], datasets.Audio))
    raw = clips.cast_column(column, datasets.Audio(decode=False))
    assert all(row[column]["bytes"][:4] == b"fLaC" for row in raw)
    return list(raw["__key__" if "__key__" in raw.column_names else "key"])


@pytest.mark.parametrize("layout", ["files", *OTHER_LAYOUTS])
def test_load_dataset_gives_the_current_rows(submit, tmp_path: Path, layout: str) -> None:
    out, as_layout = str(tmp_path / "out"), f"audio.layout={layout}"
    for rows in (FIRST, ("four,d", "three,c", "two,other"), ("two,other", "four,d"), FIRST):
        run(submit, out, rows, as_layout)
        assert load_keys(out, tmp_path / "cache") == list(open_dataset(out).current().keys())
        assert sorted(load_keys(out, tmp_path / "cache", "default")) == sorted(
            open_dataset(out).to_arrow(["key"])["key"].to_pylist()
        )
    assert len(open_dataset(out)) == 5
    text = (tmp_path / "out" / "README.md").read_text()
    (tmp_path / "out" / "README.md").write_text(text.replace("description: manifest of run", "description: mine"))
    run(submit, out, FIRST[:2], as_layout)
    configs = re.findall(r"config_name: (\w+)", (tmp_path / "out" / "README.md").read_text().split("---\n")[1])
    assert configs.count("current") == 1
    assert "description: mine" in (tmp_path / "out" / "README.md").read_text(), "a person's configuration stays"


@pytest.mark.parametrize("layout", LAYOUTS)
def test_of_a_large_dataset_the_table_has_no_audio(submit, tmp_path: Path, layout: str, monkeypatch) -> None:
    monkeypatch.setattr(huggingface_table, "SMALL_BYTES", 0)
    out, as_layout = str(tmp_path / "out"), f"audio.layout={layout}"
    run(submit, out, FIRST, as_layout)
    run(submit, out, ("three,c", "one,a"), as_layout)
    table = pq.read_table(tmp_path / "out" / "current.parquet")
    assert table["prompt"].to_pylist() == ["three", "one"]
    names = {"files": {"file_name"}, "webdataset": {"audio"}, "parquet": set()}[layout]
    assert names == {"audio", "file_name"} & {*table.column_names}
    assert ("config_name: current" in (tmp_path / "out" / "README.md").read_text()) is (layout != "webdataset")
    monkeypatch.setattr(huggingface_table, "MAX_TABLE_ROWS", 1)
    run(submit, out, ("one,a", "three,c"), as_layout)
    assert not (tmp_path / "out" / "current.parquet").exists()


def test_a_small_view_of_a_large_dataset_is_read_by_the_loader_of_the_large_one(
    submit, tmp_path: Path, monkeypatch
) -> None:
    out = str(tmp_path / "out")
    run(submit, out, FIRST)
    one = max(open_dataset(out).to_arrow(["audio_bytes"])["audio_bytes"].to_pylist())
    monkeypatch.setattr(huggingface_table, "SMALL_BYTES", one + 1)
    run(submit, out, ("three,c",))
    table = pq.read_table(tmp_path / "out" / "current.parquet")
    assert table["file_name"].to_pylist() == open_dataset(out).current().to_arrow(["audio"])["audio"].to_pylist()
    assert "metadata_filenames:\n  - current.parquet" in (tmp_path / "out" / "README.md").read_text()


def test_rows_that_failed_or_are_double_are_no_current_rows(submit, tmp_path: Path) -> None:
    out = str(tmp_path / "out")
    rows = ("two,", "one,", "two,", ",", "three,", "one,")
    outcome = run(submit, out, rows, failing={"three": RowError("crash", "killed its process")})
    assert prompts(out) == ["two", "one"]
    assert open_dataset(out).current().count_asked() == 3
    again = run(submit, out, rows)
    assert (again.plan, again.held_back) == (None, 1)
    table = pq.read_table(tmp_path / "out" / "runs" / outcome.plan.run / "rows.parquet")
    assert table.column_names == ["key"]
    assert table.num_rows == 3


def test_while_a_run_is_unfinished_or_closed_the_manifest_before_it_counts(submit, tmp_path: Path) -> None:
    out = str(tmp_path / "out")
    store = open_store(out)
    submit(HEADER + "x,x\n", "cluster.shard_rows=2", output=out)
    with pytest.raises(StoreError, match="does not say what its latest manifest is"):
        open_dataset(out).current()
    run(submit, out, FIRST, "output.supersede_unfinished=true")
    second = submit(HEADER + "four,d\nfive,e\nsix,f\n", "cluster.shard_rows=2", output=out)
    make_shard(store, second.plan, 0)
    assert prompts(out) == ["one", "two", "three"]
    waiting = submit(HEADER + "one,a\n", output=out)
    assert (waiting.plan, waiting.current_waits_for) == (None, second.plan.run)
    third = run(submit, out, ("four,d", "six,f"), "output.supersede_unfinished=true")
    assert (third.new, third.made) == (1, 1)
    assert prompts(out) == ["four", "six"]


def test_a_run_of_an_earlier_release_gets_the_rows_by_the_next_run(submit, tmp_path: Path) -> None:
    out = str(tmp_path / "out")
    store = open_store(out)
    first = run(submit, out, FIRST)
    store.delete(paths.manifest_rows(first.plan.run))
    assert find_current_run(store) is None
    dry = submit(HEADER + "".join(f"{row}\n" for row in FIRST), output=out, dry_run=True)
    assert (dry.plan, dry.becomes_current) == (None, True)
    assert run(submit, out, FIRST).becomes_current
    assert prompts(out) == ["one", "two", "three"]
    store.write(paths.manifest_rows(find_current_run(store) or ""), b"PAR1 and then noise")
    assert "is damaged" in str(check_manifest_rows(store, find_current_run(store) or ""))
    assert run(submit, out, FIRST).becomes_current, "a damaged one is no view"
    assert prompts(out) == ["one", "two", "three"]


def test_a_planner_killed_before_the_rows_leaves_them_to_who_adopts_its_run(
    submit, tmp_path: Path, monkeypatch
) -> None:
    class Killed(BaseException):
        pass

    def kill(call: str, path: str) -> None:
        if call == "put_if_absent" and path.endswith("rows.parquet"):
            raise Killed

    import tests.musicgen.plan.conftest as planning

    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(planning, "open_store", lambda uri: WatchedStore.open_folder(out, kill))
        with pytest.raises(Killed):
            submit(HEADER + "one,a\n", output=str(out))
    outcome = run(submit, str(out), ("one,a",))
    assert outcome.adopted
    assert prompts(str(out)) == ["one"]


def test_current_rows_of_many_parts_are_read_in_pieces(submit, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(current_rows, "ROWS_AT_ONCE", 7)
    out = str(tmp_path / "out")
    rows = tuple(f"p{number},{number}" for number in range(24))
    run(submit, out, rows)
    shuffled = tuple(rows[(7 * number) % 24] for number in range(24))
    run(submit, out, shuffled)
    batches = list(open_dataset(out).current().batches(["prompt", "key"]))
    assert max(batch.num_rows for batch in batches) == 7
    assert pa.Table.from_batches(batches)["prompt"].to_pylist() == [row.partition(",")[0] for row in shuffled]


def test_a_current_table_that_is_somebody_elses_is_left_alone(submit, tmp_path: Path) -> None:
    out = str(tmp_path / "out")
    run(submit, out, FIRST)
    theirs = tmp_path / "out" / "current.parquet"
    pq.write_table(pa.table({"x": [1]}), theirs)
    before = theirs.read_bytes()
    run(submit, out, FIRST[:1])
    notes = publish_card(open_dataset(out)).notes
    assert notes == ("current.parquet was left alone: it is not a table that musicgen wrote",)
    assert theirs.read_bytes() == before
    assert "config_name: current" not in (tmp_path / "out" / "README.md").read_text()
