"""The keys of all rows of a manifest in its order, and whether they are the dataset's current ones."""

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa

from musicgen.dataset.manifest_rows import KeyDigest, read_rows_footer, write_manifest_rows
from musicgen.errors import StoreError
from musicgen.plan.missing import MissingRows
from musicgen.plan.planned_runs import RunListing
from musicgen.plan.spilled_manifest import SpilledManifest
from musicgen.storage import Store


class ManifestKeys:
    """The keys of a manifest's distinct rows. `folder` is for temporary files."""

    def __init__(self, store: Store, manifest: SpilledManifest, missing_rows: MissingRows, distinct: int, folder: Path):
        self.store, self.manifest, self.missing_rows, self.folder = store, manifest, missing_rows, folder
        self.distinct = distinct

    def write(self, run: str) -> None:
        """Put them as those of a run, unless it has them. Raises `StoreError`."""
        write_manifest_rows(self.store, run, self._read(), self.folder)

    def are_current(self, listing: RunListing) -> bool:
        """Whether the latest run is of a manifest of the same rows in the same order."""
        latest = listing.latest
        if latest is None or latest.closing or latest.run not in listing.with_rows:
            return False
        try:
            footer = read_rows_footer(self.store, latest.run)
        except StoreError:  # damaged: another run will have them
            return False
        return footer.rows == self.distinct and footer.sha256 == self._compute_sha256()

    def _read(self) -> Iterator[pa.ChunkedArray]:
        spill = self.manifest.spill
        if self.distinct == spill.rows:
            return (rows["key"] for _, rows in spill.read_batches())
        return (rows["key"] for rows in spill.select_rows(self.missing_rows.read_distinct()))

    def _compute_sha256(self) -> str:
        if self.distinct == self.manifest.spill.rows:
            return self.manifest.spill.key_digest.hexdigest()
        digest = KeyDigest()
        for keys in self._read():
            digest.add_hex(keys)
        return digest.hexdigest()
