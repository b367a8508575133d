"""Reads CSV (RFC 4180: comma, a header); every row has the number of the line where it begins."""

import csv
from collections.abc import Iterator
from typing import BinaryIO

import pyarrow as pa

from musicgen.errors import ManifestError
from musicgen.manifest.columns import ColumnMap
from musicgen.manifest.files import ManifestFile, open_text
from musicgen.manifest.source_batch import BATCH_BYTES, BATCH_ROWS, SourceBatch, UnparsableRow

MAX_CELL = 16 << 20  # bytes; a larger cell is nearly always a quote that was never closed


def read_csv(file: ManifestFile, columns: ColumnMap) -> Iterator[SourceBatch]:
    """Yield the rows of a CSV file in batches; all values are text.

    Raises `ManifestError`: unreadable, no header, a missing column, a quote that is never closed.
    """
    csv.field_size_limit(max(csv.field_size_limit(), MAX_CELL))
    with open_text(file) as raw:
        lines = _DecodedLines(raw, file)
        reader = csv.reader(lines, strict=True)
        header = _read_header(reader, file)
        if not header:
            return
        columns.check(header, file.uri)
        rows: list[list[str]] = []
        numbers: list[int] = []
        unparsable: list[UnparsableRow] = []
        first_line = reader.line_num + 1
        while True:
            try:
                row = next(reader)
                if len(row) == len(header):
                    rows.append(row)
                    numbers.append(first_line)
                elif row:
                    unparsable.append(
                        UnparsableRow(first_line, f"has {len(row)} cells, but the header has {len(header)}")
                    )
            except StopIteration:
                break
            except csv.Error as error:
                unparsable.append(UnparsableRow(first_line, _describe_fault(error, file, first_line)))
            first_line = reader.line_num + 1
            if len(rows) + len(unparsable) >= BATCH_ROWS or lines.bytes > BATCH_BYTES:
                yield _build_batch(file, columns, header, rows, numbers, unparsable)
                rows, numbers, unparsable = [], [], []
                lines.bytes = 0
        if rows or unparsable:
            yield _build_batch(file, columns, header, rows, numbers, unparsable)


class _DecodedLines:
    """Lines with their ends, decoded. Bytes that are not UTF-8 become surrogates, which the row's check refuses."""

    def __init__(self, raw: BinaryIO, file: ManifestFile):
        self.raw, self.file = raw, file
        self.number = 0
        self.bytes = 0  # since the reader set it to 0

    def __iter__(self) -> "_DecodedLines":
        return self

    def __next__(self) -> str:
        line = self.raw.readline(MAX_CELL + 1)
        if not line:
            raise StopIteration
        self.number += 1
        self.bytes += len(line)
        if len(line) > MAX_CELL:
            raise ManifestError(
                f"{self.file.uri}:{self.number}: a line of more than {MAX_CELL >> 20} MB; this is no CSV manifest"
            )
        return line.decode("utf-8", "surrogateescape")


def _read_header(reader: Iterator[list[str]], file: ManifestFile) -> list[str]:
    try:
        names = next((row for row in reader if row), [])
    except csv.Error as error:
        raise ManifestError(f"{file.uri}:1: the header {_describe_fault(error, file, 1)}") from None
    try:
        "".join(names).encode()
    except UnicodeEncodeError:
        raise ManifestError(f"{file.uri}:1: the header is not UTF-8 text") from None
    return [name.strip() or f"column_{position + 1}" for position, name in enumerate(names)]


def _describe_fault(error: csv.Error, file: ManifestFile, first_line: int) -> str:
    text = str(error)
    if "unexpected end of data" in text:
        raise ManifestError(f"{file.uri}:{first_line}: a quote that is opened in this row is never closed")
    if "field larger than" in text:
        raise ManifestError(
            f"{file.uri}:{first_line}: a cell of more than {MAX_CELL >> 20} MB; is a quote left open in this row?"
        )
    if "new-line character" in text:
        raise ManifestError(
            f"{file.uri}:{first_line}: lines end with a bare carriage return; save the file with \\n or \\r\\n"
        )
    return f"is broken CSV: {text}"


def _build_batch(
    file: ManifestFile,
    columns: ColumnMap,
    header: list[str],
    rows: list[list[str]],
    numbers: list[int],
    unparsable: list[UnparsableRow],
) -> SourceBatch:
    field_of = columns.fields()
    values = list(zip(*rows, strict=True)) if rows else [()] * len(header)
    fields = {field_of[name]: list(column) for name, column in zip(header, values, strict=True) if name in field_of}
    carried_positions = [position for position, name in enumerate(header) if name not in field_of]
    invalid: set[int] = set()
    carried = {header[position]: _to_strings(values[position], invalid) for position in carried_positions}
    if invalid:  # the other rows stay
        kept = [row for row in range(len(rows)) if row not in invalid]
        unparsable = unparsable + [UnparsableRow(numbers[row], "is not valid UTF-8") for row in sorted(invalid)]
        fields = {name: [column[row] for row in kept] for name, column in fields.items()}
        carried = {name: array.take(pa.array(kept, pa.int64())) for name, array in carried.items()}
        numbers = [numbers[row] for row in kept]
    return SourceBatch(file, numbers, fields, pa.table(carried), unparsable)


def _to_strings(cells: tuple[str, ...], invalid: set[int]) -> pa.Array:
    """Return a carried column as Arrow strings, empty cells as null; rows that are not UTF-8 are added to `invalid`."""
    try:
        return pa.array([cell or None for cell in cells], pa.string())
    except (UnicodeEncodeError, pa.ArrowInvalid):
        strings: list[str | None] = []
        for row, cell in enumerate(cells):
            try:
                cell.encode()
                strings.append(cell or None)
            except UnicodeEncodeError:
                invalid.add(row)
                strings.append(None)
        return pa.array(strings, pa.string())
