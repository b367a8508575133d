"""Reads JSON Lines: one object a line. The types of carried values are chosen when all rows have been read."""

import json
from collections.abc import Iterator
from typing import BinaryIO

from musicgen.errors import ManifestError
from musicgen.manifest.columns import ColumnMap
from musicgen.manifest.files import ManifestFile, open_text
from musicgen.manifest.source_batch import BATCH_BYTES, BATCH_ROWS, SourceBatch, UnparsableRow
from musicgen.manifest.text_lines import TextLines

MAX_LINE = 16 << 20  # bytes
MAX_COLUMNS = 2000


def read_jsonl(file: ManifestFile, columns: ColumnMap, keys_seen: set[str]) -> Iterator[SourceBatch]:
    """Yield the rows of a JSONL file in batches; blank lines are skipped.

    The keys of all rows are added to `keys_seen`, since there is no header to check. Raises `ManifestError` if the file
    cannot be read.
    """
    field_of = columns.fields()
    with open_text(file) as raw:
        batch = _BatchBuilder(file, field_of, keys_seen)
        for number, line in _read_lines(raw):
            batch.add(number, line)
            if len(batch) >= BATCH_ROWS or batch.bytes > BATCH_BYTES:
                yield batch.finish()
                batch = _BatchBuilder(file, field_of, keys_seen)
        if len(batch):
            yield batch.finish()


class _BatchBuilder:
    """A batch that grows line by line."""

    def __init__(self, file: ManifestFile, field_of: dict[str, str], keys_seen: set[str]):
        self.file = file
        self.field_of = field_of
        self.keys_seen = keys_seen
        self.bytes = 0
        self.numbers: list[int] = []
        self.fields: dict[str, list[object]] = {name: [] for name in field_of.values()}
        self.carried: list[dict[str, object]] = []
        self.unparsable: list[UnparsableRow] = []

    def __len__(self) -> int:
        return len(self.numbers) + len(self.unparsable)

    def add(self, number: int, line: bytes) -> None:
        """Parse a line and add its row, or why it cannot be parsed."""
        self.bytes += len(line)
        if len(line) > MAX_LINE:
            self.unparsable.append(UnparsableRow(number, f"is a line of more than {MAX_LINE >> 20} MB"))
            return
        if line.isspace():
            return
        try:
            row = json.loads(line)
        except UnicodeDecodeError:
            self.unparsable.append(UnparsableRow(number, "is not valid UTF-8"))
            return
        except (ValueError, RecursionError) as error:
            if number == 1 and line.lstrip().startswith(b"["):
                raise ManifestError(
                    f"{self.file.uri}: a JSON array over many lines; JSON Lines holds one object a line"
                ) from None
            self.unparsable.append(UnparsableRow(number, f"is not JSON: {_describe_error(error)}"))
            return
        if not isinstance(row, dict):
            self.unparsable.append(
                UnparsableRow(number, f"is not a JSON object but {_TYPE_NAMES.get(type(row), 'a number')}")
            )
            return
        self.keys_seen.update(row)
        if len(self.keys_seen) > MAX_COLUMNS:
            raise ManifestError(
                f"{self.file.uri}:{number}: the rows have more than {MAX_COLUMNS} different keys; put free keys "
                "into one object"
            )
        values = {name: row.pop(column, None) for column, name in self.field_of.items()}
        if b"\\u" in line and not _is_valid_text(row, values):
            self.unparsable.append(
                UnparsableRow(number, "holds half a surrogate pair (\\ud800 to \\udfff), which is no character")
            )
            return
        if b"NaN" in line:  # as a field it is no value; a carried one stays
            values = {name: None if value != value else value for name, value in values.items()}
        for name, value in values.items():
            self.fields[name].append(value)
        self.numbers.append(number)
        self.carried.append(row)

    def finish(self) -> SourceBatch:
        """Return the batch."""
        return SourceBatch(self.file, self.numbers, self.fields, self.carried, self.unparsable)


_TYPE_NAMES = {list: "a list", str: "a text", bool: "true or false", type(None): "null"}


def _is_valid_text(*values: dict[str, object]) -> bool:
    """Whether UTF-8 can hold all texts: JSON can escape half of a surrogate pair."""
    try:
        json.dumps(values, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


def _describe_error(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg} at character {error.pos + 1}"
    return "a number with too many digits" if "digits" in str(error) else "nested too deeply"


def _read_lines(raw: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """Yield the lines that are not empty with their numbers; of one that is too long only its beginning."""
    lines = TextLines(raw)
    number = 0
    while line := raw.readline(MAX_LINE + 1):
        number += 1
        if line in (b"\n", b"\r\n"):
            number += lines.skip_blank_lines()
            continue
        yield number, line
        while len(line) > MAX_LINE and not line.endswith(b"\n"):
            line = raw.readline(MAX_LINE + 1)
