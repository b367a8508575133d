"""Generated tables, written by other programs: rows in = rows planned + rows refused, and the values are equal."""

import csv
import json
import math
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from musicgen.job_sections import GenerationSettings
from musicgen.job_types import CsvSettings
from musicgen.manifest.audio_hashes import AudioHashes
from musicgen.manifest.columns import ColumnMap
from musicgen.manifest.csv_choice import DialectChoice
from musicgen.manifest.manifest import read_manifest
from musicgen.manifest.missing_values import is_missing_word
from musicgen.manifest.row import RowReader
from musicgen.plan.keyed_rows import BatchParser
from musicgen.plan.keys import Keyer
from tests.fixtures.planning import SMALL
from tests.musicgen.plan.conftest import Submit

Row = dict[str, Any]
NAMES = ("prompt", "id", "duration_s", "note")
HOSTILE = [
    'drone, 12"',
    "a\nb",
    "semi;colon",
    "tab\tbar|",
    "C:\\music\\",
    '"quoted"',
    "Ünï 🎹",
    " spaced ",
    "'tis",
    "=",
]
HOSTILE += ["nan", "None", "N/A", "1.5", "\u2028", "x" * 300, '\\"', "a,b,c", "#comment", ""]


def frame(rows: list[Row]) -> pa.Table:
    schema = pa.schema(
        [("prompt", pa.string()), ("id", pa.string()), ("duration_s", pa.float64()), ("note", pa.string())]
    )
    return pa.Table.from_pylist(rows, schema=schema)


def copy_by_duckdb(rows: list[Row], path: Path, options: str) -> None:
    table = frame(rows)
    with duckdb.connect() as connection:
        connection.register("rows", table)
        connection.execute(f"copy rows to '{path}' ({options})")


def dump_lines(rows: list[Row], path: Path) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_by_csv(rows: list[Row], path: Path, **options: Any) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, **options)
        writer.writerow(NAMES)
        writer.writerows([[row[name] for name in NAMES] for row in rows])


Writer = Callable[[list[Row], Path], Any]
WRITERS: dict[str, Writer] = {
    "csv by Python": write_by_csv,
    "csv by Python, backslash": lambda rows, path: write_by_csv(rows, path, doublequote=False, escapechar="\\"),
    "csv by Python, semicolons": lambda rows, path: write_by_csv(rows, path, delimiter=";", quoting=csv.QUOTE_ALL),
    "csv by pandas": lambda rows, path: frame(rows).to_pandas().to_csv(path, index=False),
    "csv by pyarrow": lambda rows, path: pa_csv.write_csv(frame(rows), path),
    "csv by polars": lambda rows, path: pl.from_arrow(frame(rows)).write_csv(path),  # type: ignore[union-attr]
    "csv by polars, tabs": lambda rows, path: pl.from_arrow(frame(rows)).write_csv(path, separator="\t"),  # type: ignore[union-attr]
    "csv by DuckDB": lambda rows, path: copy_by_duckdb(rows, path, "format csv, header"),
    "jsonl by Python": dump_lines,
    "jsonl by pandas": lambda rows, path: frame(rows).to_pandas().to_json(path, orient="records", lines=True),
    "jsonl by polars": lambda rows, path: pl.from_arrow(frame(rows)).write_ndjson(path),  # type: ignore[union-attr]
    "jsonl by DuckDB": lambda rows, path: copy_by_duckdb(rows, path, "format json"),
    "parquet by pyarrow": lambda rows, path: pq.write_table(frame(rows), path),
    "parquet by pandas": lambda rows, path: pd.DataFrame(rows).astype({"duration_s": float}).to_parquet(path),
    "parquet by polars": lambda rows, path: pl.from_arrow(frame(rows)).write_parquet(path),  # type: ignore[union-attr]
    "parquet by DuckDB": lambda rows, path: copy_by_duckdb(rows, path, "format parquet"),
}


def is_planned(row: Row) -> bool:
    prompt, duration_s = row["prompt"], row["duration_s"]
    has_prompt = bool(prompt) and not prompt.isspace() and not is_missing_word(prompt)
    return has_prompt and (duration_s is None or math.isnan(duration_s) or 0 < duration_s <= 600)


def plan_rows(path: Path, csv_settings: CsvSettings) -> tuple[dict[str, tuple[Any, ...]], int]:
    """Return the planned rows by id as (prompt, duration, note), and how many were refused."""
    planned: dict[str, tuple[Any, ...]] = {}
    refused = 0
    with AudioHashes() as audio_hashes:
        parser = BatchParser(RowReader(GenerationSettings(), SMALL), Keyer(50.0, "0" * 64, {}, 0), audio_hashes)
        for batch in read_manifest(str(path), ColumnMap({}), dialect=DialectChoice(csv_settings)):
            carried = batch.carried if isinstance(batch.carried, list) else batch.carried.to_pylist()
            for piece in parser.parse(batch):
                refused += len(piece.invalid)
                assert all("\n" not in row.reason for row in piece.invalid)
                for row, position in zip(piece.rows.to_pylist(), piece.positions, strict=True):
                    planned[row["id"]] = (row["prompt"], row["duration_s"], carried[position].get("note"))
    return planned, refused


def check(name: str, rows: list[Row], path: Path) -> None:
    WRITERS[name](rows, path)
    escape = "\\" if "backslash" in name else None
    planned, refused = plan_rows(path, CsvSettings(escape=escape))
    expected = {row["id"]: row for row in rows if is_planned(row)}
    assert (planned.keys(), refused) == (expected.keys(), len(rows) - len(expected))
    for id, (prompt, duration_s, note) in planned.items():
        row = expected[id]
        default = row["duration_s"] is None or math.isnan(row["duration_s"])
        assert (prompt, duration_s) == (row["prompt"], 10.0 if default else row["duration_s"])
        assert (note or None) == (row["note"] or None)  # CSV cannot tell an empty text from none


def suffix(name: str) -> str:
    return name.partition(" ")[0]


TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\r\0"), max_size=12) | st.sampled_from(HOSTILE)
ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "prompt": st.none() | TEXT,
            "duration_s": st.none() | st.just(math.nan) | st.floats(-5, 700).map(lambda value: round(value, 2)),
            "note": st.none() | TEXT,
        }
    ),
    min_size=1,
    max_size=6,
).map(lambda rows: [{"id": f"id-{number}", **row} for number, row in enumerate(rows)])


@pytest.mark.parametrize("name", WRITERS)
@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=ROWS)
def test_every_row_is_planned_or_refused(tmp_path: Path, name: str, rows: list[Row]) -> None:
    check(name, rows, tmp_path / f"m.{suffix(name)}")


def make_rows(count: int) -> list[Row]:
    generator = random.Random(7)
    durations = [None, math.nan, 4.0, 7.25, -1.0, 9000.0]
    return [
        {
            "id": f"id-{number}",
            "prompt": generator.choice([*HOSTILE, *(f"{text} {number}" for text in HOSTILE), None]),
            "duration_s": generator.choice(durations),
            "note": generator.choice([*HOSTILE, None]),
        }
        for number in range(count)
    ]


@pytest.mark.slow
@pytest.mark.parametrize("name", WRITERS)
def test_ten_thousand_rows_are_planned_or_refused(tmp_path: Path, submit: Submit, name: str) -> None:
    path = tmp_path / f"m.{suffix(name)}"
    rows = make_rows(10_000)
    check(name, rows, path)
    outcome = submit(path, *(["manifest.csv.escape=\\"] if "backslash" in name else []), dry_run=True)
    assert outcome.new + outcome.invalid_count == len(rows)


MONSTERS = ["empty lines", "empty lines in JSON", "20,000 columns", "open quotes", "one long line"]
_PLAN_IT = """
import sys
from pathlib import Path
from musicgen.job import Job
from musicgen.plan import make_plan
from musicgen.storage import open_store
from tests.fixtures.planning import PlannedCheckpoint
job = Job.load(None, [], manifest=sys.argv[1], output=sys.argv[2])
outcome = make_plan(job, PlannedCheckpoint(), open_store(job.output.uri), dry_run=True)
peak_kb = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(outcome.new, outcome.invalid_count, peak_kb >> 10)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind", ["empty lines", "empty lines in JSON", "20,000 columns", "open quotes", "one long line"]
)
def test_a_monstrous_file_is_planned_in_bounded_memory(tmp_path: Path, kind: str) -> None:
    path = tmp_path / ("m.jsonl" if "JSON" in kind else "m.csv")
    row = '{"prompt": "a"}\n' if "JSON" in kind else "a,b\n"
    with path.open("w") as file:
        if kind == "20,000 columns":
            file.write(f"prompt,{','.join(f'c{number}' for number in range(20_000))}\n")
            for number in range(100):
                file.write(f"p{number},{','.join(f'{number}x{column}' for column in range(20_000))}\n")
        else:
            file.write(row if "JSON" in kind else "prompt,id\n" + row)
            for _ in range(10 if kind == "open quotes" else 300):
                file.write(
                    {"open quotes": '"x\n' * (1 << 15), "one long line": "x" * (1 << 20)}.get(kind, "\n" * (1 << 20))
                )
            file.write("\n" + row.replace("b", "d").replace('"a"', '"c"'))
    command = [sys.executable, "-c", _PLAN_IT, str(path), str(tmp_path / "out")]
    result = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)
    assert result.returncode == 0, result.stderr[-500:]
    new, invalid, peak_mb = map(int, result.stdout.split())
    expected = {"20,000 columns": (100, 0), "one long line": (2, 1), "open quotes": (2, 10 << 15)}.get(kind, (2, 0))
    assert ((new, invalid), peak_mb < 500) == (expected, True), peak_mb
