"""Names of columns that are nearly ours, or nearly each other's: named, refused or prefixed, never swapped."""

import json
import unicodedata
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from flows.column_lines import describe_columns
from musicgen.errors import ManifestError
from musicgen.manifest.near_misses import find_near_misses
from musicgen.plan import read_shard
from musicgen.storage import open_store
from tests.musicgen.plan.conftest import Submit

FIELDS = ("prompt", "id", "melody", "continuation", "duration_s", "samples", "seed", "temperature", "top_k", "top_p")
FIELDS += ("guidance_scale",)


@pytest.mark.parametrize(
    ("column", "field"),
    [
        ("duration", "duration_s"),
        ("Duration_S", "duration_s"),
        ("duration-s", "duration_s"),
        ("length", "duration_s"),
        ("Seed", "seed"),
        ("seed ", "seed"),
        ("topk", "top_k"),
        ("Top K", "top_k"),
        ("cfg_coef", "guidance_scale"),
        ("guidence_scale", "guidance_scale"),
        ("melody_path", "melody"),
        ("melodie", None),
        ("ID", "id"),
        ("\ufeffid", "id"),
        ("num_samples", "samples"),
        ("\uff34\uff25\uff2d\uff30\uff25\uff32\uff21\uff34\uff35\uff32\uff25", "temperature"),
        ("mood", None),
        ("caption", None),
        ("output_file", None),
        ("name", None),
    ],
)
def test_a_column_that_is_nearly_ours_is_found(column: str, field: str | None) -> None:
    assert find_near_misses([column], {"prompt": "prompt"}, FIELDS) == ({column: field} if field else {})


def test_a_field_that_has_its_column_is_not_missed() -> None:
    assert find_near_misses(["duration", "Seed"], {"duration_s": "duration_s", "seed": "seed"}, FIELDS) == {}


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_the_table_of_another_tool_is_named_with_the_remedy(tmp_path: Path, submit: Submit, kind: str) -> None:
    row = {"prompt": "upbeat jazz piano", "duration": "4", "output_file": "jazz.mp3", "temperature": "0.9"}
    path = tmp_path / f"m.{kind}"
    if kind == "csv":
        path.write_text(f"{','.join(row)}\n{','.join(row.values())}\n")
    elif kind == "jsonl":
        path.write_text(json.dumps(row) + "\n")
    else:
        pq.write_table(pa.Table.from_pylist([row]), path)
    outcome = submit(path, dry_run=True)
    lines = describe_columns(outcome.used, outcome.carried, outcome.near_misses, outcome.left_out)
    assert lines[0] == "Columns that are read: prompt, temperature."
    assert "duration, output_file" in lines[1]
    assert "manifest.columns: {duration_s: duration}" in lines[2]
    outcome = submit(path, 'manifest.columns={"duration_s": "duration"}', dry_run=True)
    assert outcome.near_misses == ()
    assert outcome.used["duration_s"] == "duration"
    assert outcome.audio_s == 4


def test_names_that_are_equal_but_for_case_are_never_swapped(tmp_path: Path, submit: Submit) -> None:
    for header, cells in (("prompt,Prompt,Id,id", "mine,theirs,x,1"), ("Id,id,Prompt,prompt", "x,1,theirs,mine")):
        outcome = submit(f"{header}\n{cells}\n", output=str(tmp_path / "out"))
        if outcome.plan is None:
            continue  # the second one is the same row
        shard = read_shard(open_store(str(tmp_path / "out")), outcome.plan, 0)
        assert (shard.requests[0].prompt, shard.requests[0].id) == ("mine", "1")
        assert shard.carried.to_pylist() == [{"manifest_Prompt": "theirs", "manifest_Id": "x"}]


COMPOSED, DECOMPOSED = (unicodedata.normalize(form, "Gr\u00f6\u00dfe") for form in ("NFC", "NFD"))


@pytest.mark.parametrize(("first", "second"), [(COMPOSED, DECOMPOSED), ("mood", "Mood"), ("STRASSE", "stra\u00dfe")])
def test_names_that_cannot_be_told_apart_are_refused(submit: Submit, first: str, second: str) -> None:
    with pytest.raises(ManifestError, match="in case or Unicode form alone"):
        submit(f"prompt,{first},{second}\na,x,y\n", dry_run=True)


def test_a_name_in_another_form_is_shown_by_its_code_points(submit: Submit) -> None:
    with pytest.raises(ManifestError, match=r"o\\u0308"):
        submit(f"{DECOMPOSED}\na\n", f'manifest.columns={{"prompt": "{COMPOSED}"}}', dry_run=True)
    with pytest.raises(ManifestError, match="did you mean `Prompt`"):
        submit("Prompt,id\na,1\n", dry_run=True)
