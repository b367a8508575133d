"""What every reader yields: a batch of rows of one file, as they stand there."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from musicgen.manifest.files import ManifestFile

if TYPE_CHECKING:
    import pyarrow as pa

BATCH_ROWS = 4096
BATCH_BYTES = 32 << 20  # and fewer rows, where rows are large


@dataclass(frozen=True, slots=True)
class UnparsableRow:
    """A row that is not even a row: cut, ragged, not UTF-8, not JSON."""

    number: int
    reason: str


@dataclass(frozen=True, slots=True)
class SourceBatch:
    """Some rows of one file. `numbers` are lines (CSV, JSONL: where the row begins) or rows (Parquet), from 1.

    `fields` holds the columns that mean something, by our names, raw values. `carried` holds the others: an Arrow
    table, or for JSONL one dict per row, whose types are settled when all rows have been seen.
    """

    file: ManifestFile
    numbers: Sequence[int]
    fields: dict[str, list[Any]]
    carried: "pa.Table | list[dict[str, Any]]"
    unparsable: Sequence[UnparsableRow] = field(default=())

    def __len__(self) -> int:
        return len(self.numbers)

    def locate(self, number: int) -> str:
        """File and row, as failures and messages name it."""
        return f"{self.file.uri}{' row ' if self.file.format == 'parquet' else ':'}{number}"
