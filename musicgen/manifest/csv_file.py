"""CSV as people write it (RFC 4180, comma, a header): rows with the line they begin on, broken ones told apart."""

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
    """The rows of a CSV file in batches; all values are text, an empty cell is None.

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
        broken: list[UnparsableRow] = []
        begins = reader.line_num + 1
        while True:
            try:
                row = next(reader)
                if len(row) == len(header):
                    rows.append(row)
                    numbers.append(begins)
                elif row:
                    broken.append(UnparsableRow(begins, f"has {len(row)} cells, but the header has {len(header)}"))
            except StopIteration:
                break
            except csv.Error as error:
                broken.append(UnparsableRow(begins, _describe_fault(error, file, begins)))
            begins = reader.line_num + 1
            if len(rows) + len(broken) >= BATCH_ROWS or lines.bytes > BATCH_BYTES:
                yield _build_batch(file, columns, header, rows, numbers, broken)
                rows, numbers, broken = [], [], []
                lines.bytes = 0
        if rows or broken:
            yield _build_batch(file, columns, header, rows, numbers, broken)


class _DecodedLines:
    """Decoded lines, ends kept. Bytes that are not UTF-8 become surrogates, which the row's check names."""

    def __init__(self, raw: BinaryIO, file: ManifestFile):
        self.raw, self.file = raw, file
        self.number = 0
        self.bytes = 0  # since somebody set it to 0

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
    return [name.strip() or f"column_{i + 1}" for i, name in enumerate(names)]


def _describe_fault(error: csv.Error, file: ManifestFile, begins: int) -> str:
    text = str(error)
    if "unexpected end of data" in text:
        raise ManifestError(f"{file.uri}:{begins}: a quote that is opened in this row is never closed")
    if "field larger than" in text:
        raise ManifestError(
            f"{file.uri}:{begins}: a cell of more than {MAX_CELL >> 20} MB; is a quote left open in this row?"
        )
    if "new-line character" in text:
        raise ManifestError(
            f"{file.uri}:{begins}: lines end with a bare carriage return; save the file with \\n or \\r\\n"
        )
    return f"is broken CSV: {text}"


def _build_batch(
    file: ManifestFile,
    columns: ColumnMap,
    header: list[str],
    rows: list[list[str]],
    numbers: list[int],
    broken: list[UnparsableRow],
) -> SourceBatch:
    meaning = columns.fields()
    values = list(zip(*rows, strict=True)) if rows else [()] * len(header)
    fields = {meaning[name]: list(column) for name, column in zip(header, values, strict=True) if name in meaning}
    others = [i for i, name in enumerate(header) if name not in meaning]
    bad: set[int] = set()
    carried = {header[i]: _to_strings(values[i], bad) for i in others}
    if bad:  # the row goes, the others stay
        keep = [i for i in range(len(rows)) if i not in bad]
        broken = broken + [UnparsableRow(numbers[i], "is not valid UTF-8") for i in sorted(bad)]
        fields = {name: [column[i] for i in keep] for name, column in fields.items()}
        carried = {name: array.take(pa.array(keep, pa.int64())) for name, array in carried.items()}
        numbers = [numbers[i] for i in keep]
    return SourceBatch(file, numbers, fields, pa.table(carried), broken)


def _to_strings(cells: tuple[str, ...], bad: set[int]) -> pa.Array:
    """Return a carried column as Arrow strings, empty cells as null; positions of cells not in UTF-8 go to `bad`."""
    try:
        return pa.array([cell or None for cell in cells], pa.string())
    except (UnicodeEncodeError, pa.ArrowInvalid):
        clean: list[str | None] = []
        for i, cell in enumerate(cells):
            try:
                cell.encode()
                clean.append(cell or None)
            except UnicodeEncodeError:
                bad.add(i)
                clean.append(None)
        return pa.array(clean, pa.string())
