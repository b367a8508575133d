"""Columns of a manifest in the plan: in any order, format and type, carried under their names."""

import json
import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from musicgen.dataset import open_dataset
from musicgen.errors import JobError, ManifestError
from musicgen.plan import read_shard
from musicgen.storage import open_store
from tests.fixtures.planning import make_missing_shards, planned_keys


def test_carried_columns_that_sql_cannot_tell_apart_are_refused(submit) -> None:
    with pytest.raises(ManifestError, match="the columns 'Genre' and 'genre' differ in case"):
        submit("prompt,Genre,genre\nx,a,b\n")
    with pytest.raises(ManifestError, match=r"the columns 'caf\\xe9' and 'cafe\\u0301' differ"):
        submit('{"prompt": "x", "caf\u00e9": 1}\n{"prompt": "y", "cafe\u0301": 2}\n')


def test_order_format_and_splitting_do_not_matter(submit, tmp_path: Path) -> None:
    rows = [
        {
            "prompt": f"prompt {i}",
            "id": f"row-{i}",
            "duration_s": [5, 7.5, 10][i % 3],
            "temperature": [0.9, 1, None][i % 3],
            "n": i,
        }
        for i in range(30)
    ]
    shuffled = random.Random(1).sample(rows, len(rows))
    header = "n,id,temperature,prompt,duration_s\n"
    text = header + "".join(
        f"{r['n']},{r['id']},{r['temperature'] or ''},{r['prompt']},{r['duration_s']}\n" for r in rows
    )
    split = tmp_path / "split"
    split.mkdir()
    for part in range(3):
        pq.write_table(pa.Table.from_pylist(shuffled[part::3]), split / f"{part}.parquet")
    outputs = [tmp_path / name for name in ("csv", "jsonl", "parquet")]
    plans = [
        submit(text, output=str(outputs[0])),
        submit("".join(json.dumps(row) + "\n" for row in shuffled), output=str(outputs[1])),
        submit(split, "cluster.shard_rows=4", output=str(outputs[2])),
    ]
    made = [planned_keys(outcome, output) for outcome, output in zip(plans, outputs, strict=True)]
    assert sorted(made[0]) == sorted(made[1]) == sorted(made[2])
    assert len(set(made[0])) == 30
    assert len({outcome.plan.run for outcome in plans}) == 1
    assert [outcome.plan.carried for outcome in plans] == [{"n": "string"}, {"n": "int64"}, {"n": "int64"}]


def test_json_types_are_what_all_values_have_in_common(submit, tmp_path: Path) -> None:
    rows = [
        {
            "prompt": "a",
            "whole": 1,
            "number": 1,
            "mixed": 1,
            "flag": True,
            "nested": ["x"],
            "huge": 2**70,
            "source": "book",
        },
        {
            "prompt": "b",
            "whole": 2,
            "number": 1.5,
            "mixed": "two",
            "flag": None,
            "nested": {"a": 1},
            "huge": 1,
            "key": "k",
            "late": 5,
        },
    ]
    outcome = submit("".join(json.dumps(row) + "\n" for row in rows))
    kinds = {
        "whole": "int64",
        "number": "double",
        "mixed": "string",
        "flag": "bool",
        "nested": "string",
        "huge": "string",
    }
    assert outcome.plan.carried == {**kinds, "source": "string", "manifest_key": "string", "late": "int64"}
    carried = read_shard(open_store(str(tmp_path / "out")), outcome.plan, 0).carried.to_pylist()
    assert carried[0] == {
        **{
            "whole": 1,
            "number": 1.0,
            "mixed": "1",
            "flag": True,
            "nested": '["x"]',
            "huge": str(2**70),
            "source": "book",
        },
        **{"manifest_key": None, "late": None},
    }
    assert carried[1]["nested"] == '{"a":1}'
    make_missing_shards(outcome, tmp_path / "out")


def test_a_later_manifest_is_cast_to_the_types_that_the_dataset_pins(submit, tmp_path: Path) -> None:
    out = tmp_path / "out"
    make_missing_shards(submit('{"prompt": "a", "n": 1, "tag": "x"}\n'), out)
    assert submit("prompt,n,tag\na,1,x\n").plan is None  # text that is a number
    fewer = submit('{"prompt": "b", "n": 2}\n')  # a key that no row has is null
    assert fewer.plan.carried == {"n": "int64", "tag": "string"}
    make_missing_shards(fewer, out)
    with pytest.raises(ManifestError, match=r"m\.csv:3: a value of the column `n` does not fit the type int64"):
        submit("prompt,n,tag\nc,3,x\nd,many,x\n", dry_run=True)
    with pytest.raises(JobError, match="format is 'flac', not 'mp3'"):
        submit(tmp_path / "does-not-matter.csv", "audio.format=mp3")


def test_carried_columns_keep_their_names_in_any_order_of_columns(submit, tmp_path: Path) -> None:
    def carried(header: str, row: str) -> list[dict[str, Any]]:
        (tmp_path / "m.csv").write_text(f"{header}\n{row}\n")
        outcome = submit(tmp_path / "m.csv", "manifest.columns.prompt=caption", "manifest.columns.id=name")
        make_missing_shards(outcome, tmp_path / "out")
        return read_shard(open_store(str(tmp_path / "out")), outcome.plan, 0).carried.to_pylist()

    first = carried("name,caption,prompt,manifest_prompt", "1,a,theirs,its namesake")
    assert first == [{"manifest_prompt": "its namesake", "manifest_manifest_prompt": "theirs"}]
    assert carried("name,caption,manifest_prompt,prompt", "2,b,its namesake,theirs") == first
    assert open_dataset(str(tmp_path / "out")).info.carried_names == {
        "prompt": "manifest_manifest_prompt",
        "manifest_prompt": "manifest_prompt",
    }


def test_a_column_that_lacks_in_a_night_does_not_give_its_name_away(submit, tmp_path: Path) -> None:
    out = tmp_path / "out"
    make_missing_shards(submit('{"prompt": "a", "key": "k1", "manifest_key": "m1"}\n'), out)
    make_missing_shards(submit('{"prompt": "b", "key": "k2"}\n'), out)
    rows = open_dataset(str(out)).to_arrow(["prompt", "manifest_key", "manifest_manifest_key"]).to_pylist()
    assert {row["prompt"]: (row["manifest_key"], row["manifest_manifest_key"]) for row in rows} == {
        "a": ("m1", "k1"),
        "b": (None, "k2"),
    }


def test_parquet_files_that_disagree(submit, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    pq.write_table(
        pa.table({"prompt": ["a"], "n": [1], "none": pa.nulls(1), "late": pa.nulls(1)}), folder / "a.parquet"
    )
    pq.write_table(pa.table({"prompt": ["b"], "n": [1.5], "more": [True], "late": [7]}), folder / "b.parquet")
    outcome = submit(folder)
    assert outcome.plan.carried == {"n": "double", "none": "string", "late": "int64", "more": "bool"}
    rows = read_shard(open_store(str(tmp_path / "out")), outcome.plan, 0).carried.to_pylist()
    assert rows == [
        {"n": 1.0, "none": None, "late": None, "more": None},
        {"n": 1.5, "none": None, "late": 7, "more": True},
    ]
    pq.write_table(pa.table({"prompt": ["c"], "n": ["text"]}), folder / "c.parquet")
    with pytest.raises(ManifestError, match="column `n` is double in one file and string in another"):
        submit(folder, output=str(tmp_path / "other"))
