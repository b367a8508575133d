"""The key of a row does not depend on the format, the order or the splitting of its manifest."""

import csv
import gzip
import io
import json
import tempfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import given, settings
from hypothesis import strategies as st

from musicgen.job_sections import GenerationSettings
from musicgen.manifest.audio_hashes import AudioHashes
from musicgen.manifest.columns import ColumnMap
from musicgen.manifest.manifest import read_manifest
from musicgen.manifest.row import RowReader
from musicgen.plan.keyed_rows import BatchParser
from musicgen.plan.keys import Keyer
from tests.fixtures.planning import SMALL

# CSV cannot tell an empty text from none, nor carry a lone carriage return.
TEXT = st.text(st.characters(exclude_characters="\r", codec="utf-8"), max_size=12)
NUMBERS = st.none() | st.integers(-1, 20) | st.floats(-1, 20).map(lambda value: round(value, 2))
ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "prompt": TEXT,
            "id": st.none() | st.integers(0, 99) | TEXT,
            "duration_s": NUMBERS,
            "temperature": NUMBERS,
            "top_k": st.none() | st.integers(-1, 300),
            "seed": st.none() | st.integers(0, 2**63 - 1),
            "samples": st.none() | st.integers(0, 3),
            "mood": st.none() | TEXT,
        }
    ),
    min_size=1,
    max_size=8,
)
COLUMNS = ("prompt", "id", "duration_s", "temperature", "top_k", "seed", "samples", "mood")


def write_csv(path: Path, rows: list[dict[str, Any]]) -> None:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, COLUMNS)
    writer.writeheader()
    writer.writerows(rows)
    data = text.getvalue().encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_parquet(path: Path, rows: list[dict[str, Any]]) -> None:
    types = {
        "duration_s": pa.float64(),
        "temperature": pa.float64(),
        "top_k": pa.int32(),
        "seed": pa.int64(),
        "samples": pa.int8(),
    }
    values = {name: [row[name] for row in rows] for name in COLUMNS}
    values["id"] = [None if value is None else str(value) for value in values["id"]]
    pq.write_table(pa.table({name: pa.array(values[name], types.get(name, pa.string())) for name in COLUMNS}), path)


def row_keys(uri: Path | str) -> tuple[list[str], list[str]]:
    """Return the sorted keys of the valid rows and the sorted reasons of the others."""
    keys: list[str] = []
    reasons: list[str] = []
    with AudioHashes() as audio_hashes:
        parser = BatchParser(RowReader(GenerationSettings(), SMALL), Keyer(50.0, "0" * 64, {}, 0), audio_hashes)
        for batch in read_manifest(str(uri), ColumnMap({})):
            for parsed in parser.parse(batch):
                keys += [key.hex() for key in parsed.keys]
                reasons += [row.reason.partition(" is ")[0] for row in parsed.invalid]
    return sorted(keys), sorted(reasons)


@settings(max_examples=60)
@given(ROWS, st.randoms(use_true_random=False))
def test_every_format_order_and_splitting_gives_the_same_keys(rows: list[dict[str, Any]], random: Any) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_csv(folder / "m.csv", rows)
        write_csv(folder / "m.csv.gz", rows)
        write_jsonl(folder / "m.jsonl", rows)
        write_parquet(folder / "m.parquet", rows)
        shuffled = random.sample(rows, len(rows))
        (folder / "parts").mkdir()
        middle = random.randrange(len(rows) + 1)
        write_csv(folder / "parts" / "a.csv", shuffled[:middle])
        write_csv(folder / "parts" / "b.csv", shuffled[middle:])
        expected = row_keys(folder / "m.jsonl")
        assert len(expected[0]) >= sum(1 for row in rows if not expected[1] and row["samples"])
        for other in ("m.csv", "m.csv.gz", "m.parquet", "parts"):
            assert row_keys(folder / other) == expected, other
