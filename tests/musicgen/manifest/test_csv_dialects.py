"""CSV as spreadsheets, databases and scripts write it: every record is one row, or one row that is refused."""

import csv
import io
from contextlib import suppress
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import pyarrow as pa
import pyarrow.csv as pa_csv
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from musicgen.errors import ManifestError
from musicgen.job_types import CsvSettings
from musicgen.manifest import csv_records, text_lines
from musicgen.manifest.csv_dialect import CsvDialect
from tests.fixtures.manifest_rows import read_rows

ROWS = [("calm piano", "a"), ('drone, 12"', "b"), ("two\nlines; here", "c"), ("Über | ß", "d"), ("", "e")]


def write_text(rows: list[tuple[str, ...]], **options: Any) -> str:
    text = io.StringIO(newline="")
    csv.writer(text, **options).writerows([("prompt", "id"), *rows])
    return text.getvalue()


DIALECTS: dict[str, bytes] = {
    "RFC 4180": write_text(ROWS).encode(),
    "Excel with semicolons": write_text(ROWS, delimiter=";").encode(),
    "Excel's sep line": b"sep=;\r\n" + write_text(ROWS, delimiter=";").encode(),
    "Excel's byte order mark": b"\xef\xbb\xbf" + write_text(ROWS, delimiter=";").encode(),
    "Excel's Unicode text": write_text(ROWS, delimiter="\t").encode("utf-16"),
    "big-endian UTF-16": b"\xfe\xff" + write_text(ROWS).encode("utf-16-be"),
    "UTF-32": write_text(ROWS).encode("utf-32"),
    "tabs": write_text(ROWS, delimiter="\t").encode(),
    "bars": write_text(ROWS, delimiter="|", lineterminator="\n").encode(),
    "Spark and MySQL: quotes escaped by a backslash": write_text(ROWS, doublequote=False, escapechar="\\").encode(),
    "the same with all cells quoted": write_text(
        ROWS, doublequote=False, escapechar="\\", quoting=csv.QUOTE_ALL, delimiter=";"
    ).encode(),
    "no quotes at all": write_text(ROWS[:2], quoting=csv.QUOTE_NONE, escapechar="\\").encode(),
    "single quotes": write_text(ROWS, quotechar="'").encode(),
    "a preamble": b"Prompts of 2026\r\nby, the team, of three\r\n\r\n" + write_text(ROWS).encode(),
    "a preamble and semicolons": b"# exported; by; hand\n" + write_text(ROWS, delimiter=";").encode(),
    "old Mac lines": write_text([row for row in ROWS if row[1] != "c"], lineterminator="\r").encode(),
    "lines in two ways": write_text(ROWS[:1]).encode() + write_text(ROWS[1:], lineterminator="\n").encode()[10:],
    "doubled carriage returns": write_text(ROWS, lineterminator="\r\r\n").encode(),
}


@pytest.mark.parametrize("content", DIALECTS.values(), ids=DIALECTS)
def test_every_dialect_gives_the_rows_that_were_written(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "m.csv").write_bytes(content)
    read = read_rows(tmp_path / "m.csv")
    expected = [{"prompt": prompt, "id": id} for prompt, id in ROWS]
    assert not read.unparsable
    assert [row for row in read.values if row in expected] == read.values
    assert len(read.values) >= 2
    ids = [row["id"] for row in read.values]
    assert ids == sorted(ids)


def test_quotes_escaped_by_a_backslash_lose_no_row(tmp_path: Path) -> None:
    text = 'prompt,id\n"drone, 12\\"",a\n"bright arpeggio",b\nplain bass,c\n'
    (tmp_path / "m.csv").write_text(text)
    read = read_rows(tmp_path / "m.csv")
    assert [row["prompt"] for row in read.values] == ['drone, 12"', "bright arpeggio", "plain bass"]
    assert read.dialect == CsvDialect(escape="\\")
    # The dataset's last run read it otherwise: the row fails, with the reason, and no neighbor does.
    read = read_rows(tmp_path / "m.csv", last=CsvDialect())
    assert [row["id"] for row in read.values] == ["b", "c"]
    assert list(read.unparsable) == [2]
    assert "lines up to 3" in read.unparsable[2]
    assert 'manifest.csv: {escape: "\\\\"}' in read.unparsable[2]


@pytest.mark.parametrize(
    ("cell", "expected"),
    [("C:\\\\music\\\\a", "C:\\music\\a"), ("C:\\music", "C:\\music"), ("\\N", "\\N"), ("a\\,b", "a,b"), ("x\\", None)],
)
def test_a_backslash_escapes_what_needs_it_and_is_kept_before_the_rest(
    tmp_path: Path, cell: str, expected: str | None
) -> None:
    (tmp_path / "m.csv").write_text(f'prompt,id\n{cell},a\n"q\\"",b\n')
    read = read_rows(tmp_path / "m.csv", escape="\\")
    assert [row["prompt"] for row in read.values] == [*([expected] if expected else []), 'q"']


def test_a_row_that_cannot_be_read_is_one_row(tmp_path: Path) -> None:
    rows = ['"never closed,a', "fine,b", '"bad"quote,c', "short", "lone\rreturn,d", '"good, too",e', 'last "one",f']
    (tmp_path / "m.csv").write_text("prompt,id\n" + "\n".join(rows) + "\n", newline="")
    read = read_rows(tmp_path / "m.csv")
    assert [row["id"] for row in read.values] == ["b", "e", "f"]
    assert list(read.unparsable) == [2, 4, 5, 6]
    assert "\n" not in "".join(read.unparsable.values())


def test_a_quote_that_is_never_closed_takes_no_other_row_with_it(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text('prompt\na\n"b\nc\nd\n')
    read = read_rows(tmp_path / "m.csv")
    assert [row["prompt"] for row in read.values] == ["a", "c", "d"]
    assert "never closed" in read.unparsable[3]


def test_a_line_too_long_is_one_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_lines, "MAX_LINE", 1000)
    (tmp_path / "m.csv").write_text(f"prompt\na\n{'x' * 5000}\nb\n")
    read = read_rows(tmp_path / "m.csv")
    assert [row["prompt"] for row in read.values] == ["a", "b"]
    assert list(read.unparsable) == [3]


def test_quotes_that_never_match_end_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(csv_records, "_READ_AGAIN", 1000)
    (tmp_path / "m.csv").write_text("prompt,id\n" + '"a\nb\n' * 1000)
    with pytest.raises(ManifestError, match="quotes of this file do not match"):
        read_rows(tmp_path / "m.csv")


def test_empty_lines_are_passed_over_and_counted(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text("\n\r\n\nprompt,id\n\n\na,1\n" + "\n" * 5000 + 'b,2\n"\n\n",3\n\n', newline="")
    assert [number for number, _ in read_rows(tmp_path / "m.csv").rows] == [7, 5008, 5009]
    (tmp_path / "m.jsonl").write_text("\n\r\n" + '{"prompt": "a"}\n' + "\n" * 5000 + '{"prompt": "b"}\n', newline="")
    assert [number for number, _ in read_rows(tmp_path / "m.jsonl").rows] == [3, 5004]


def test_a_dialect_that_does_not_fit_every_record_is_only_named(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text("prompt;id\ncalm;a\none;two;three\n")
    with pytest.raises(ManifestError) as caught:
        read_rows(tmp_path / "m.csv")
    assert "m.csv:3" in str(caught.value)
    assert 'manifest.csv: {delimiter: ";"}' in str(caught.value)
    read = read_rows(tmp_path / "m.csv", delimiter=";")
    assert (len(read.rows), list(read.unparsable)) == (1, [3])
    (tmp_path / "q.csv").write_text('prompt,id\n"calm",a\n"bad"quote,b\n')  # not a file without quotes
    assert [row["prompt"] for row in read_rows(tmp_path / "q.csv").values] == ["calm"]


def test_the_job_says_what_cannot_be_found_out(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_bytes("Übung,a\n".encode("cp1252"))
    read = read_rows(tmp_path / "m.csv", encoding="cp1252", header=["prompt", "id"])
    assert read.rows == [(1, {"prompt": "Übung", "id": "a"})]
    (tmp_path / "n.csv").write_text("one;two\nthree\nprompt;id\nx;y\n")
    assert read_rows(tmp_path / "n.csv", delimiter=";", header=3).rows == [(4, {"prompt": "x", "id": "y"})]
    (tmp_path / "o.tsv").write_text("prompt\tid\nx\ty\n")
    assert read_rows(tmp_path / "o.tsv").values == [{"prompt": "x", "id": "y"}]


def test_an_escape_that_is_the_quote_means_doubled_quotes(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text('prompt,id\n"drone, 12""",a\n')
    read = read_rows(tmp_path / "m.csv", escape='"')
    assert (read.values, read.dialect) == ([{"prompt": 'drone, 12"', "id": "a"}], CsvDialect())
    assert read_rows(tmp_path / "m.csv", quote='"', escape='"').values == read.values


@pytest.mark.parametrize(
    "values",
    [
        {"delimiter": ";", "quote": ";"},
        {"delimiter": ";", "escape": ";"},
        {"quote": ","},
        {"quote": "\r"},
        {"escape": "\n"},
        {"header": []},
        {"encoding": "idna"},
        {"encoding": "punycode"},
        {"encoding": "base64"},
    ],
    ids=str,
)
def test_what_is_no_dialect_is_refused(values: Any) -> None:
    with pytest.raises(ValidationError):
        CsvSettings(**values)
    CsvSettings(delimiter=";", quote="|", escape="\\", encoding="utf-16-le", header=["prompt"])


def test_an_encoding_that_needs_a_mark_is_refused_for_a_file_without(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_bytes("prompt,id\nx,a\n".encode("utf-16-le"))
    with pytest.raises(ManifestError, match=r"m\.csv: .*BOM.*utf-16-le"):
        read_rows(tmp_path / "m.csv", encoding="utf-16")
    assert read_rows(tmp_path / "m.csv", encoding="utf-16-le").values == [{"prompt": "x", "id": "a"}]


def test_a_file_is_read_as_in_the_last_run(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text("prompt;id\na;1\n")
    semicolons = read_rows(tmp_path / "m.csv").dialect
    assert semicolons == CsvDialect(delimiter=";")
    (tmp_path / "m.csv").write_text("prompt;id\na;1\nbroken\n")
    assert len(read_rows(tmp_path / "m.csv", last=semicolons).rows) == 1
    (tmp_path / "m.csv").write_text("prompt,id\na,1\n")
    with pytest.raises(ManifestError, match="the dataset's last run read semicolon"):
        read_rows(tmp_path / "m.csv", last=semicolons)


def test_files_of_a_folder_have_one_dialect(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('prompt,id\n"plain",a\n')
    (tmp_path / "b.csv").write_text('prompt,id\n"drone, 12\\"",b\n')
    assert [row["id"] for row in read_rows(tmp_path).values] == ["a", "b"]
    (tmp_path / "c.tsv").write_text("prompt\tid\nx\tc\n")  # beside other CSV it is passed over, as it always was
    assert len(read_rows(tmp_path).rows) == 2


TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\r\0"), max_size=12)
TABLES = st.lists(st.tuples(TEXT, st.integers(0, 99).map(str), TEXT), min_size=1, max_size=6)
OPTIONS = st.fixed_dictionaries(
    {
        "delimiter": st.sampled_from([",", ";", "\t", "|"]),
        "quotechar": st.sampled_from(['"', "'"]),
        "quoting": st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC]),
        "lineterminator": st.sampled_from(["\n", "\r\n"]),
        "doublequote": st.booleans(),
    }
)
Table = list[tuple[str, str, str]]


def check_values(path: Path, table: Table, **given_settings: Any) -> None:
    read = read_rows(path, **given_settings)
    expected = [{"prompt": prompt, "id": id, "note": note or None} for prompt, id, note in table]
    assert (read.values, read.unparsable) == (expected, {})


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(table=TABLES, options=OPTIONS)
def test_what_pythons_writer_writes_in_a_dialect_is_read_in_it(tmp_path: Path, table: Table, options: Any) -> None:
    escape = "" if options["doublequote"] else "\\"
    with (tmp_path / "m.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, **options, escapechar=escape or None)
        writer.writerows([("prompt", "id", "note"), *table])
    check_values(tmp_path / "m.csv", table, delimiter=options["delimiter"], quote=options["quotechar"], escape=escape)


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(table=TABLES, options=OPTIONS)
def test_no_row_is_lost_whatever_the_dialect_is_taken_for(tmp_path: Path, table: Table, options: Any) -> None:
    with (tmp_path / "m.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, **options, escapechar="\\")
        writer.writerows([("prompt", "id", "note"), *((prompt.replace("\n", " "), *rest) for prompt, *rest in table)])
    with suppress(ManifestError):  # the message says what to set
        read = read_rows(tmp_path / "m.csv")
        assert len(read.rows) + len(read.unparsable) >= len(table)


@pytest.mark.parametrize("writer", ["pandas", "pyarrow", "duckdb", "duckdb with semicolons"])
@settings(max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(table=TABLES)
def test_what_other_programs_write_is_read(tmp_path: Path, writer: str, table: Table) -> None:
    path = tmp_path / "m.csv"
    columns = {name: [row[i] for row in table] for i, name in enumerate(("prompt", "id", "note"))}
    if writer == "pandas":
        pd.DataFrame(columns).to_csv(path, index=False)
    elif writer == "pyarrow":
        pa_csv.write_csv(pa.table(columns), path)
    else:
        rows = pa.table(columns)
        delimiter = ";" if "semicolons" in writer else ","
        duckdb.from_arrow(rows).write_csv(str(path), sep=delimiter)
    check_values(path, table)


def test_what_the_job_leaves_open_is_found_out(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_bytes("prompt;id\nÜbung;a\n".encode("cp1252"))
    read = read_rows(tmp_path / "m.csv", encoding="cp1252", delimiter=None)
    assert read.values == [{"prompt": "Übung", "id": "a"}]
    assert read_rows(tmp_path / "m.csv", last=CsvDialect(delimiter=";"), encoding="cp1252").values == read.values
