"""Cells without a value, and numbers that a spreadsheet has rewritten."""

import json
import math
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from musicgen.errors import RowError
from musicgen.job_sections import GenerationSettings
from musicgen.manifest.row import RowReader
from tests.fixtures.planning import MELODY
from tests.musicgen.plan.conftest import Submit

NUMBERS = ("duration_s", "samples", "temperature", "top_k", "top_p", "guidance_scale", "steps")
NO_VALUE = [None, math.nan, Decimal("NaN"), np.float32("nan"), "", " ", "nan", "NaN", "None", "null", "NULL", "N/A"]
NO_VALUE += ["#N/A", "n/a", "NA", "<NA>", "\\N", " nan "]


def make_reader(**settings: Any) -> RowReader:
    return RowReader(GenerationSettings(**settings), MELODY, "a model")


def refusal(function: Any, *arguments: Any) -> str:
    with pytest.raises(RowError) as caught:
        function(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("value", NO_VALUE, ids=repr)
def test_a_cell_without_a_value_is_the_jobs_default(value: Any) -> None:
    reader = make_reader(duration_s=7, samples=2)
    parameters = reader.read_parameters((value,) * len(NUMBERS), NUMBERS)
    assert (parameters.duration_s, parameters.samples, parameters.steps) == (7, 2, None)
    assert reader.read_seed(value) is None
    assert reader.read_uri(value, "melody") is None
    assert reader.read_uri(value, "continuation") is None


@pytest.mark.parametrize("word", ["nan", "None", "NULL", "N/A", "#N/A", "<NA>", "NaN", "NA", " null", "\\N"])
def test_a_word_for_no_value_is_no_prompt_and_no_id(word: str) -> None:
    assert "stands for no value" in refusal(make_reader().read_prompt, word)
    assert "stands for no value" in refusal(make_reader().read_id, word)


@pytest.mark.parametrize("text", ["none of it", "na na na", "null island at night", "nano drums", "na"])
def test_other_texts_are_prompts(text: str) -> None:
    assert make_reader().read_prompt(text) == make_reader().read_id(text) == text


NAN_ROWS = [
    {"prompt": "calm piano", "id": "a", "melody": math.nan, "duration_s": math.nan, "seed": math.nan, "x": math.nan},
    {"prompt": "drum loop", "id": math.nan, "melody": None, "duration_s": 4.0, "seed": None, "x": 1.5},
]


@pytest.mark.parametrize(
    "kind", ["json.dumps", "to_json", "to_parquet", "NaN in Parquet", "to_csv", "to_csv with NULL"]
)
def test_missing_cells_of_a_data_frame(tmp_path: Path, submit: Submit, kind: str) -> None:
    frame = pd.DataFrame(NAN_ROWS)
    path = tmp_path / ("m.csv" if "csv" in kind else "m.parquet" if "arquet" in kind else "m.jsonl")
    if kind == "json.dumps":
        path.write_text("".join(json.dumps(row) + "\n" for row in NAN_ROWS))
    elif kind == "to_json":
        frame.to_json(path, orient="records", lines=True)
    elif kind == "to_parquet":
        frame.to_parquet(path)
    elif kind == "NaN in Parquet":
        columns = {name: [row[name] for row in NAN_ROWS] for name in NAN_ROWS[0]}
        columns["id"], columns["melody"] = ["a", None], [None, None]
        pq.write_table(pa.table(columns), path)
    else:
        frame.to_csv(path, index=False, na_rep="NULL" if "NULL" in kind else "")
    outcome = submit(path, "manifest.limit=2", dry_run=True)
    refused = [reason for _, reason in outcome.invalid]
    if kind == "to_csv with NULL":  # the word in `id` is refused, and nothing else is
        assert (outcome.new, len(refused), "id is 'NULL'" in refused[0]) == (1, 1, True)
    else:
        assert (outcome.new, refused) == (2, [])


def test_many_rows_with_nan_are_planned_as_fast_as_with_null(tmp_path: Path, submit: Submit) -> None:
    reader = make_reader()
    pq.write_table(pa.table({"prompt": ["a"] * 3, "duration_s": [math.nan] * 3}), tmp_path / "m.parquet")
    submit(tmp_path / "m.parquet", dry_run=True)
    parameters = [reader.read_parameters((None,), ("duration_s",)) for _ in range(3)]
    assert parameters[0] is parameters[2]


@pytest.mark.parametrize(
    ("name", "cell", "reason"),
    [
        ("seed", "1.23457E+18", "rounded"),
        ("seed", "1.23457E+11", "rounded"),
        ("seed", 1.5e18, "rounded"),
        ("seed", "1234567890123456789.0", "rounded"),
        ("seed", "1234567890123450000", "spreadsheet"),
        ("seed", "1.234.567", "separators of thousands"),
        ("seed", "1,234,567", "separators of thousands"),
        ("samples", "1.000", "separator of thousands"),
        ("samples", "1 000", "separators of thousands"),
        ("top_k", "1'000", "separators of thousands"),
        ("duration_s", "3,5", "decimal point"),
        ("duration_s", ",5", "decimal point"),
        ("duration_s", "1.000,5", "separators of thousands"),
        ("duration_s", "3-May", "not a number"),
        ("duration_s", "\uff18", "not a number"),
        ("temperature", "1e-400", "too close to 0"),
        ("temperature", "50%", "not a number"),
        ("guidance_scale", "3\u00a0000", "separators of thousands"),
    ],
)
def test_a_number_that_was_rewritten_is_refused_with_the_reason(name: str, cell: Any, reason: str) -> None:
    reader = make_reader()
    message = refusal(reader.read_seed, cell) if name == "seed" else refusal(reader.read_parameters, (cell,), (name,))
    assert reason in message
    assert message.startswith(name)


@pytest.mark.parametrize(
    ("cell", "seed"),
    [
        ("1234567890123456789", 1234567890123456789),
        (Decimal("1234567890123456789"), 1234567890123456789),
        (Decimal("7.0"), 7),
        ("7.0", 7),
        (7.0, 7),
        ("1000000", 1000000),
        (1234567890123450000, 1234567890123450000),
    ],
)
def test_whole_numbers_are_exact(cell: Any, seed: int) -> None:
    assert make_reader().read_seed(cell) == seed


@pytest.mark.parametrize("cell", ["1.23457E+11", "9E+12", 2.0**60])
def test_an_id_that_was_shortened_is_refused(cell: Any) -> None:
    assert "id is" in refusal(make_reader().read_id, cell)
