"""Reads CSV with a header; every row has the number of the line where it begins."""

from collections.abc import Iterator

import pyarrow as pa

from musicgen.manifest.columns import ColumnMap
from musicgen.manifest.csv_choice import DialectChoice
from musicgen.manifest.csv_header import read_header
from musicgen.manifest.csv_records import CsvRecords
from musicgen.manifest.files import ManifestFile, open_text
from musicgen.manifest.source_batch import BATCH_BYTES, BATCH_ROWS, SourceBatch, UnparsableRow
from musicgen.manifest.text_lines import TextLines

_BATCH_CELLS = 1 << 20  # a wide table has fewer rows in a batch


def read_csv(file: ManifestFile, columns: ColumnMap, choice: DialectChoice) -> Iterator[SourceBatch]:
    """Yield the rows of a CSV file in batches; all values are text.

    Raises `ManifestError` (unreadable, no header, a missing column) and `DialectChanged`, if a row shows that the file
    is of another dialect.
    """
    dialect = choice.choose()
    with open_text(file, dialect.encoding) as raw:
        lines = TextLines(raw)
        records = CsvRecords(lines, dialect, file.uri)
        header = read_header(records, file.uri)
        if not header:
            return
        columns.check(header, file.uri, file.partitions)
        records.width = len(header)
        batch_rows = max(1, min(BATCH_ROWS, _BATCH_CELLS // len(header)))
        rows: list[list[str]] = []
        numbers: list[int] = []
        unparsable: list[UnparsableRow] = []
        while not records.ended:
            fault = records.read_rows(rows, numbers, batch_rows - len(unparsable), BATCH_BYTES)
            if fault is not None:
                choice.doubt()
                unparsable.append(UnparsableRow(fault.line, fault.fault))
                if len(rows) + len(unparsable) < batch_rows and lines.bytes <= BATCH_BYTES:
                    continue
            if rows or unparsable:
                yield _build_batch(file, columns, header, rows, numbers, unparsable)
            rows, numbers, unparsable = [], [], []
            lines.bytes = 0


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
