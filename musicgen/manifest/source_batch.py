"""A batch of rows of one file, with the values as they are written there: what every reader yields."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from musicgen.manifest.files import ManifestFile

if TYPE_CHECKING:
    import pyarrow as pa

BATCH_ROWS = 4096
BATCH_BYTES = 32 << 20  # a batch of large rows has fewer of them


@dataclass(frozen=True, slots=True)
class UnparsableRow:
    """A row whose fields cannot be read: cut off, with a wrong number of cells, not UTF-8, not JSON."""

    number: int
    reason: str


@dataclass(frozen=True, slots=True)
class SourceBatch:
    """Some rows of one file. `numbers` are lines (CSV, JSONL: where the row begins) or rows (Parquet), from 1.

    `fields` holds the raw values of the columns that are fields of a row, by field. `carried` holds the other columns:
    an Arrow table, or for JSONL one dict per row, since their types are known only when all rows have been read.
    """

    file: ManifestFile
    numbers: Sequence[int]
    fields: dict[str, list[object]]
    carried: "pa.Table | list[dict[str, object]]"
    unparsable: Sequence[UnparsableRow] = field(default=())

    def __len__(self) -> int:
        return len(self.numbers)

    def locate(self, number: int) -> str:
        """Return file and row, as failures and messages name it."""
        return f"{self.file.uri}{' row ' if self.file.format == 'parquet' else ':'}{number}"
