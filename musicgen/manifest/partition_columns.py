"""Adds the columns that are in the names of folders to a manifest's rows."""

from collections.abc import Collection
from dataclasses import replace

import pyarrow as pa

from musicgen.manifest.columns import ColumnMap
from musicgen.manifest.source_batch import SourceBatch


class PartitionColumns:
    """Which columns of folder names are taken: as fields of a row those that `manifest.columns` names, others carried.

    `carried` are the ones that an existing dataset has; None: all. A file's own column of the same name counts more.
    `left_out` collects the others.
    """

    def __init__(self, columns: ColumnMap, carried: Collection[str] | None = None):
        self._field_of = {column: field for field, column in columns.mapping.items() if field in columns.row_fields}
        self._carried = carried
        self.left_out: set[str] = set()

    def add_to(self, batch: SourceBatch) -> SourceBatch:
        """Return a batch with the columns of its file's folders."""
        for name, value in batch.file.partitions:
            if name in self._field_of:
                field = self._field_of[name]
                present = batch.fields.get(field)
                if present is None or (isinstance(batch.carried, list) and all(cell is None for cell in present)):
                    batch = replace(batch, fields={**batch.fields, field: [value] * len(batch)})
            elif self._carried is not None and name not in self._carried:
                self.left_out.add(name)
            else:
                batch = _carry(batch, name, value)
        return batch


def _carry(batch: SourceBatch, name: str, value: str | None) -> SourceBatch:
    if isinstance(batch.carried, list):
        return replace(batch, carried=[{name: value, **row} for row in batch.carried])
    if name in batch.carried.column_names:
        return batch
    column = pa.repeat(pa.scalar(value, pa.string()), len(batch))
    if not batch.carried.num_columns:
        return replace(batch, carried=pa.table({name: column}))
    return replace(batch, carried=batch.carried.append_column(name, column))
