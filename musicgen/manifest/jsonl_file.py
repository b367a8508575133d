"""JSON Lines: one object a line. Types of carried values are settled later, when all rows have been seen."""

import json
from collections.abc import Iterator
from typing import Any, BinaryIO

from musicgen.errors import ManifestError
from musicgen.manifest.columns import ColumnMap
from musicgen.manifest.files import ManifestFile, open_text
from musicgen.manifest.source_batch import BATCH_BYTES, BATCH_ROWS, SourceBatch, UnparsableRow

MAX_LINE = 16 << 20  # bytes
MAX_COLUMNS = 2000


def read_jsonl(file: ManifestFile, columns: ColumnMap, seen: set[str]) -> Iterator[SourceBatch]:
    """The rows of a JSONL file in batches; blank lines are passed over.

    A line has no header to check, so the names of its keys are added to `seen`. Raises `ManifestError` if the file
    cannot be read.
    """
    meaning = columns.fields()
    with open_text(file) as raw:
        batch = _BatchBuilder(file, meaning, seen)
        for number, line in enumerate(_read_lines(raw), start=1):
            batch.add(number, line)
            if len(batch) >= BATCH_ROWS or batch.bytes > BATCH_BYTES:
                yield batch.finish()
                batch = _BatchBuilder(file, meaning, seen)
        if len(batch):
            yield batch.finish()


class _BatchBuilder:
    """A batch that grows line by line."""

    def __init__(self, file: ManifestFile, meaning: dict[str, str], seen: set[str]):
        self.file = file
        self.seen = seen
        self.meaning = meaning
        self.bytes = 0
        self.numbers: list[int] = []
        self.fields: dict[str, list[Any]] = {name: [] for name in meaning.values()}
        self.carried: list[dict[str, Any]] = []
        self.unparsable: list[UnparsableRow] = []

    def __len__(self) -> int:
        return len(self.numbers) + len(self.unparsable)

    def add(self, number: int, line: bytes) -> None:
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
        self.seen.update(row)
        if len(self.seen) > MAX_COLUMNS:
            raise ManifestError(
                f"{self.file.uri}:{number}: the rows have more than {MAX_COLUMNS} different keys; put free keys "
                "into one object"
            )
        values = {name: row.pop(column, None) for column, name in self.meaning.items()}
        if b"\\u" in line and not _is_valid_text(row, values):
            self.unparsable.append(
                UnparsableRow(number, "holds half a surrogate pair (\\ud800 to \\udfff), which is no character")
            )
            return
        for name, value in values.items():
            self.fields[name].append(value)
        self.numbers.append(number)
        self.carried.append(row)

    def finish(self) -> SourceBatch:
        return SourceBatch(self.file, self.numbers, self.fields, self.carried, self.unparsable)


_TYPE_NAMES = {list: "a list", str: "a text", bool: "true or false", type(None): "null"}


def _is_valid_text(*values: dict[str, Any]) -> bool:
    """Whether all texts are made of whole characters; JSON can spell halves that UTF-8 cannot."""
    try:
        json.dumps(values, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


def _describe_error(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg} at character {error.pos + 1}"
    return "a number with too many digits" if "digits" in str(error) else "nested too deeply"


def _read_lines(raw: BinaryIO) -> Iterator[bytes]:
    """Lines; of one that is too long only its beginning, the rest is skipped."""
    while line := raw.readline(MAX_LINE + 1):
        yield line
        while len(line) > MAX_LINE and not line.endswith(b"\n"):
            line = raw.readline(MAX_LINE + 1)
