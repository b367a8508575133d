"""Makes a committed shard again: the same run, shard, attempt and rows, in the place of what is damaged or lost."""

from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq

from musicgen.audio import EncodedAudio
from musicgen.dataset import paths
from musicgen.dataset.index_part import Footer
from musicgen.dataset.layouts import Tar
from musicgen.dataset.salvaged_part import KEPT_COLUMNS, SalvagedPart, find_old_hash
from musicgen.dataset.writer import ShardWriter
from musicgen.errors import MusicGenError, StoreError
from musicgen.job_sections import AudioSettings
from musicgen.shard import PlannedModel, ShardRows
from musicgen.storage import Store
from musicgen.value_types import TableRow

_PLACE_COLUMNS = ["key", "audio", "audio_offset", "audio_sha256"]


class OtherBits(MusicGenError):
    """A clip that was made again is not what it was: its audio has another sha256."""


class PartRewriter(ShardWriter):
    """Writes a shard over the part that `old` describes, on condition that it is still that part (If-Match).

    Where there is none it is put if absent, as any attempt does. What can be read of the old rows is kept: times and
    fingerprints. A clip whose audio gets another sha256 raises `OtherBits`, unless `other_bits`: then the footer keeps
    the old one. With `keep_part` the part itself is sound, and is replaced only if its rows changed. `deleted` counts
    rows of the shard that `musicgen gc` has deleted; `rows` is without them.
    """

    def __init__(
        self,
        store: Store,
        rows: ShardRows,
        audio: AudioSettings,
        model: PlannedModel,
        engine: str,
        old: SalvagedPart,
        attempt: str,
        reason: str,
        other_bits: bool = False,
        keep_part: bool = False,
        deleted: int = 0,
    ):
        super().__init__(store, rows.run, rows.shard, attempt, rows, audio, model, engine)
        self._old, self._reason = old, reason
        self._other_bits, self._keep_part, self._deleted = other_bits, keep_part, deleted
        self._replaced: dict[str, str] = {}
        self._new_tar: str | None = None
        self.failure_times: dict[str, object] = {}  # key -> `created_at` of the failures that were read

    def _check_bits(self, key: str, encoded: EncodedAudio) -> None:
        before = find_old_hash(self.store, self._old, key)
        if before is None or encoded.sha256.startswith(before):
            return
        if not self._other_bits:
            raise OtherBits(
                f"{key}: its audio comes out with other bits ({encoded.sha256[:12]}, it was {before[:12]}); repair it "
                "with the versions and the kind of device that made it (index column `engine`), or allow --other-bits"
            )
        self._replaced[key] = before

    def _keep_values(self, row: TableRow) -> TableRow:
        if "error_class" in row:
            return row | {"created_at": self.failure_times.get(row["key"], row["created_at"])}
        old = self._old.rows.get(row["key"], {})
        return row | {name: old[name] for name in KEPT_COLUMNS if old.get(name) is not None}

    def _prepare_commit(self) -> None:
        if not isinstance(self._layout, Tar):
            return
        if self._replaced:  # readers still have the old offsets into the old tar
            self._new_tar = paths.audio_tar(self.run, self.shard, f"{self.attempt}-r{self._revision}")
        if (tar := self._find_tar()) is not None:
            self._layout.rename(tar)

    def _find_tar(self) -> str | None:
        return self._new_tar or (self._old.footer.tar if self._old.footer else None)

    @property
    def _revision(self) -> int:
        return (self._old.footer.revision if self._old.footer else 0) + 1

    def _finish_footer(self, footer: Footer) -> Footer:
        footer = replace(footer, tar=self._find_tar(), replaced=self._replaced or None)
        footer = replace(footer, rows=footer.rows + self._deleted, removed=self._deleted)
        if self._old.etag is None:  # a shard that has no part is pending: this is its first commit again
            return footer
        return replace(footer, revision=self._revision, reason=self._reason)

    def _put_part(self, part: Path, footer: Footer) -> Footer:
        if self._old.etag is None:
            return super()._put_part(part, footer)
        if self._keep_part and not self._replaced and self._has_same_places(part):
            return footer
        if not self.store.replace_if_match(self._old.path, part, self._old.etag):
            raise StoreError(
                f"{self.store.join(self._old.path)} was changed by another meanwhile; run the repair again"
            )
        return footer

    def _has_same_places(self, part: Path) -> bool:
        if self._layout.tar_sha256 is None:
            return False
        rows = pq.read_table(part, columns=_PLACE_COLUMNS).to_pylist()
        return all(
            all(self._old.rows.get(row["key"], {}).get(name) == row[name] for name in _PLACE_COLUMNS[1:])
            for row in rows
        )
