"""The header of a CSV file."""

from musicgen.errors import ManifestError
from musicgen.manifest.csv_records import CsvRecords, Record


def read_header(records: CsvRecords, uri: str) -> list[str]:
    """Read up to the header and return the names of the columns; [] for an empty file.

    A column without a name has its position as name. Raises `ManifestError` if the header cannot be read.
    """
    wanted = records.dialect.header
    if not isinstance(wanted, int):
        return list(wanted)
    header = find_record(records, wanted)
    if header is None:
        return []
    if header.fault:
        raise ManifestError(f"{uri}:{header.line}: the header {header.fault}")
    try:
        "".join(header.cells).encode()
    except UnicodeEncodeError:
        raise ManifestError(
            f"{uri}:{header.line}: the header is not UTF-8 text; if the file is in another encoding, say so, such as "
            "manifest.csv: {encoding: cp1252}"
        ) from None
    return [name.strip() or f"column_{position + 1}" for position, name in enumerate(header.cells)]


def find_record(records: CsvRecords, line: int) -> Record | None:
    """Return the first record that begins in a line or after it; None at the end of the file."""
    while records.lines.number < line - 1:  # what stands above the header need not be CSV
        records.lines.record = []
        if next(records.lines, None) is None:
            return None
    return next(iter(records), None)
