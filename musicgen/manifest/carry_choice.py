"""Which of a manifest's other columns are carried: `manifest.carry`."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from musicgen.manifest.source_batch import SourceBatch

Carry = Sequence[str] | Literal["all"]


class CarryChoice:
    """Takes the columns that a job carries, by the manifest's names; `left_out` collects the others."""

    def __init__(self, carry: Carry):
        self.carry = None if carry == "all" else frozenset(carry)
        self.left_out: set[str] = set()

    def select(self, batch: SourceBatch) -> SourceBatch:
        """Return a batch with those columns alone."""
        if self.carry is None:
            return batch
        if isinstance(batch.carried, list):
            self.left_out.update(*(row.keys() - self.carry for row in batch.carried))
            rows = [{name: row[name] for name in row if name in self.carry} for row in batch.carried]
            return replace(batch, carried=rows)
        names = batch.carried.column_names
        self.left_out.update(set(names) - self.carry)
        return replace(batch, carried=batch.carried.select([name for name in names if name in self.carry]))
