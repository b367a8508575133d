"""Tables that change: columns come and go, and an id is there twice; neither stops a job."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from flows.column_lines import describe_growth
from musicgen.dataset import open_dataset, verify_dataset
from musicgen.dataset.card import publish_card
from musicgen.dataset.info import DatasetInfo, read_dataset_info, write_dataset_info
from musicgen.errors import JobError, ManifestError
from musicgen.plan import PlanOutcome, pending_shards
from musicgen.storage import open_store
from tests.fixtures.planning import make_shard

LAYOUTS = ["files", "parquet", "webdataset"]


def make(outcome: PlanOutcome, output: Path) -> PlanOutcome:
    assert outcome.plan is not None
    store = open_store(str(output))
    for shard in pending_shards(store, outcome.plan):
        make_shard(store, outcome.plan, shard)
    return outcome


def growth(outcome: PlanOutcome) -> tuple[tuple[str, ...], ...]:
    return outcome.added, outcome.lacking, outcome.not_carried


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_new_column_is_added_and_a_missing_one_is_null(submit, tmp_path: Path, layout: str) -> None:
    out, as_layout = tmp_path / "out", f"audio.layout={layout}"
    assert growth(make(submit("prompt,genre\na,rock\n", as_layout), out)) == ((), (), ())
    later = pa.table({"prompt": ["b"], "bpm": [120], "day": pa.array([1], pa.date32()), "tags": [["x", "y"]]})
    pq.write_table(later, tmp_path / "later.parquet")
    grown = make(submit(tmp_path / "later.parquet", as_layout), out)
    assert growth(grown) == (("bpm", "day", "tags"), ("genre",), ())
    assert describe_growth(*growth(grown)) == [
        "Columns that the dataset gets from this run on: bpm, day, tags.",
        "Columns of the dataset that the manifest lacks, which are null: genre.",
    ]
    third = make(submit("prompt,genre\nc,jazz\n", as_layout), out)
    assert growth(third) == ((), ("bpm", "day", "tags"), ())
    assert submit("prompt,genre\na,rock\n", as_layout).made == 1, "keys do not change"
    dataset = open_dataset(str(out))
    table = dataset.to_arrow(["prompt", "bpm", "genre", "tags"]).sort_by("prompt")
    assert table.to_pylist() == [
        {"prompt": "a", "bpm": None, "genre": "rock", "tags": None},
        {"prompt": "b", "bpm": 120, "genre": None, "tags": ["x", "y"]},
        {"prompt": "c", "bpm": None, "genre": "jazz", "tags": None},
    ]
    assert dataset.schema().names[-4:] == ["genre", "bpm", "day", "tags"]
    assert pa.Table.from_batches(dataset.batches()).schema == dataset.schema()
    publish_card(dataset)
    report = verify_dataset(dataset, deep=True)
    assert report.sound, report.faults
    clips = datasets.load_dataset(str(out), split="train", cache_dir=str(tmp_path / "cache"))
    rows = clips["json"] if layout == "webdataset" else clips.remove_columns("audio").to_list()
    assert {row["prompt"]: row["bpm"] for row in rows} == {"a": None, "b": 120, "c": None}
    assert {row["prompt"]: row["tags"] or [] for row in rows} == {"a": [], "b": ["x", "y"], "c": []}


def test_only_the_columns_that_are_asked_for_are_carried(submit, tmp_path: Path) -> None:
    out = tmp_path / "out"
    first = make(submit("prompt,genre,note,bpm\na,rock,x,90\n", "manifest.carry=[genre,bpm]"), out)
    assert (first.carried, growth(first)) == (("genre", "bpm"), ((), (), ("note",)))
    later = make(submit("prompt,genre,note,mood\nb,jazz,x,sad\n", "manifest.carry=[genre]"), out)
    assert growth(later) == ((), ("bpm",), ("mood", "note"))
    as_json = "".join(json.dumps({"prompt": p, "genre": "pop", "bpm": 70, "n": n}) + "\n" for n, p in enumerate("cd"))
    make(submit(as_json, "manifest.carry=[genre]"), out)
    rows = open_dataset(str(out)).to_arrow(["prompt", "genre", "bpm"]).sort_by("prompt").to_pylist()
    assert [tuple(row.values()) for row in rows] == [
        ("a", "rock", "90"),
        ("b", "jazz", None),
        ("c", "pop", None),
        ("d", "pop", None),
    ]
    assert set(open_dataset(str(out)).info.carried) == {"genre", "bpm"}
    with pytest.raises(ManifestError, match=r"no column `genra`, which manifest\.carry names; did you mean `genre`\?"):
        submit("prompt,genre\nb,jazz\n", "manifest.carry=[genra]")
    make(submit("prompt,genre\ne,jazz\n", "manifest.carry=[genre,bpm]"), out)
    with pytest.raises(ManifestError, match="column `bpm`"):
        submit("prompt,genre\ne,jazz\n", "manifest.carry=[genre,bpm]", output=str(tmp_path / "new"))
    none = submit("prompt,genre\ne,jazz\n", "manifest.carry=[]", output=str(tmp_path / "none"))
    assert none.carried == ()


def test_a_dataset_of_version_1_leaves_new_columns_out(submit, tmp_path: Path) -> None:
    out = tmp_path / "out"
    make(submit("prompt,genre\na,rock\n"), out)
    info = json.loads((out / "dataset.json").read_text()) | {"schema_version": 1}
    (out / "dataset.json").write_text(
        json.dumps(
            {name: info[name] for name in ("schema_version", "layout", "format")}
            | {"carried": info["carried"], "codes": False}
        )
    )
    before = (out / "dataset.json").read_bytes()
    outcome = make(submit("prompt,bpm,genre\nb,120,jazz\n"), out)
    assert growth(outcome) == ((), (), ("bpm",))
    assert growth(make(submit("prompt\nc\n"), out)) == ((), ("genre",), ())
    assert (out / "dataset.json").read_bytes() == before


def test_a_value_that_does_not_fit_an_added_column_is_refused(submit, tmp_path: Path) -> None:
    make(submit("prompt\na\n"), tmp_path / "out")
    make(submit('{"prompt": "b", "bpm": 120}\n'), tmp_path / "out")
    with pytest.raises(ManifestError, match=r"m\.csv:2: a value of the column `bpm` does not fit the type int64"):
        submit("prompt,bpm\nc,fast\n")
    assert not submit('{"prompt": "a", "mood": "sad"}\n', dry_run=True).new
    assert "mood" not in open_dataset(str(tmp_path / "out")).info.carried


def test_two_jobs_that_add_columns_at_once_both_do(s3) -> None:
    store = open_store(s3.uri)
    write_dataset_info(store, DatasetInfo.of("files", "flac"))
    schemas = [pa.schema([(f"c{number}", pa.int64())]) for number in range(4)] + [pa.schema([("c0", pa.string())])]

    def add(schema: pa.Schema) -> bool:
        try:
            return schema.names[0] in write_dataset_info(store, DatasetInfo.of("files", "flac", schema)).carried
        except JobError:
            return False

    with ThreadPoolExecutor(5) as pool:
        added = list(pool.map(add, schemas))
    assert sum(added) == 4, "of two types of one column one is first"
    info = read_dataset_info(store)
    assert info is not None
    assert set(info.carried) == set(info.carried_names) == {"c0", "c1", "c2", "c3"}


def test_a_repeated_id_refuses_the_later_row_and_not_the_job(submit, tmp_path: Path) -> None:
    out, manifest = tmp_path / "out", tmp_path / "m.csv"
    rows = "prompt,id,samples\nx,a,2\nz,b,1\ny,a,3\nz,b,1\nw,,1\nw,c,1\nv,a,1\n"
    outcome = make(submit(rows), out)
    assert (outcome.new, outcome.invalid_count, outcome.duplicates) == (5, 3, 0)
    assert outcome.invalid == [
        (f"{manifest}:{later}", f"ids are unique in a manifest, and this one is that of {manifest}:{first}")
        for later, first in ((4, 2), (5, 3), (8, 2))
    ]
    made = open_dataset(str(out)).to_arrow(["prompt", "id", "sample"]).to_pylist()
    assert sorted((row["prompt"], row["id"] or "", row["sample"]) for row in made) == [
        ("w", "", 0),
        ("w", "c", 0),
        ("x", "a", 0),
        ("x", "a", 1),
        ("z", "b", 0),
    ]
    (failures,) = out.glob("failures/*/plan.parquet")
    assert pq.read_table(failures)["id"].to_pylist() == ["a", "b", "a"]
    shifted = rows.replace("samples\n", "samples\n,,1\n")  # another invalid row; the lines of the others move
    assert submit(shifted, dry_run=True).invalid_count == 4
    assert submit(rows).made == 5
