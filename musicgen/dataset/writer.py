"""Writes one attempt at one shard, from clips to the commit.

The order of the writes makes the commit atomic. The audio comes first, so that every row of the index has its audio;
then the failures, under a name of the attempt; then one index part at the shard's fixed name, only if it is absent. The
attempt that writes that part first commits the shard. An attempt that was given up but still runs changes nothing. If
the store's reply is lost, the attempt in the part's footer shows who committed.
"""

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Self

import pyarrow as pa

from musicgen.audio import EncodedAudio, encode_audio
from musicgen.clip import Clip
from musicgen.dataset import paths
from musicgen.dataset.index_batch import Codes, make_index_batch, take_carried
from musicgen.dataset.index_part import Footer, read_footer, schema_with, write_part
from musicgen.dataset.info import require_dataset_info
from musicgen.dataset.layouts import Place, make_layout
from musicgen.dataset.schema import FAILURES, MELODY_STEMS, index_schema
from musicgen.errors import RowError, StoreError, StoreUnavailable
from musicgen.job_sections import AudioSettings
from musicgen.manifest.json_columns import to_json_table
from musicgen.request import Request
from musicgen.shard import PlannedModel, ShardRows
from musicgen.storage import Store
from musicgen.storage.parquet_writer import encode_parquet
from musicgen.storage.patience import wait_for_store
from musicgen.temporary_folder import temporary_folder
from musicgen.value_types import TableRow

_ROW_GROUP_BYTES = 64 << 20  # of audio: a reader of `layout: parquet` holds one row group in memory


@dataclass(frozen=True, slots=True)
class Committed:
    """The counts of a committed shard. `won` is False if another attempt was first; the counts are then that one's.

    `closed_by` names the run that closed the shard, if that is why this attempt came too late; `attempt` the one whose
    commit counts.
    """

    won: bool
    made: int
    failed: int
    audio_s: float
    closed_by: str | None = None
    attempt: str = ""


class ShardWriter:
    """Writes one shard: call `add` or `fail` once for each position, from any threads, then `commit`.

    The index part has the columns of the schema version that `dataset.json` gives, which must be there.
    `attempt` must be unique among all attempts at the shard; `engine` is the engine's fingerprint. Where a store cannot
    be used, all calls wait for it, for at most `patience_s` seconds, and keep what they have to write. Then, and at
    other faults of the store at once, they raise a `StoreError`: nothing is committed, and the call or the whole
    attempt may be repeated. An `OSError` is a fault of this machine's disk for temporary files. `commit` frees the
    attempt's temporary files; so do `close` and leaving a `with` block.
    """

    def __init__(
        self,
        store: Store,
        run: str,
        shard: int,
        attempt: str,
        rows: ShardRows,
        audio: AudioSettings,
        model: PlannedModel,
        engine: str,
        patience_s: float = 0.0,
    ):
        self.store, self.run, self.shard, self.attempt = store, run, shard, attempt
        self._rows, self._audio, self._model, self._engine = rows, audio, model, engine
        self._patience_s = patience_s
        self._layout = make_layout(audio.layout, store, audio.format, run, shard, attempt, patience_s)
        self._version = wait_for_store(lambda: require_dataset_info(store), patience_s).schema_version
        self._schema = index_schema(audio.layout, rows.carried.schema, audio.codes, self._version)
        self._made: dict[int, TableRow] = {}
        self._codes: dict[int, Codes] = {}  # if they are kept
        self._failed: dict[int, TableRow] = {}
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Free the attempt's temporary files."""
        self._layout.close()

    def add(self, position: int, clip: Clip) -> None:
        """Encode, measure and write one clip. Raises `RowError` if its waveform cannot be stored; then call `fail`."""
        request, key = self._rows.requests[position], self._rows.keys[position]
        encoded = encode_audio(clip.audio, clip.sample_rate, self._audio.format, self._audio.loudness_lufs)
        self._check_bits(key, encoded)
        self._layout.add(position, key, encoded.data, encoded.sha256)
        row = self._keep_values(self._index_row(request, key, clip, encoded))
        with self._lock:
            self._failed.pop(position, None)
            self._made[position] = row
            if self._audio.codes:
                self._codes[position] = clip.codes

    def fail(self, position: int, error: RowError, attempts: int = 1) -> None:
        """Record that a row could not be made."""
        request = self._rows.requests[position]
        row = {
            "key": self._rows.keys[position],
            "id": request.id,
            "prompt": request.prompt,
            "source": self._rows.sources[position],
            "error_class": error.error_class,
            "error": str(error),
            "attempts": attempts,
            "run": self.run,
            "shard": self.shard,
            "created_at": datetime.now(UTC),
        }
        with self._lock:
            if position not in self._made:
                self._failed[position] = self._keep_values(row)

    def commit(self) -> Committed:
        """Finish the audio, write the failures, and write the index part if it is absent.

        Raises `RuntimeError` if a row was neither added nor failed, because such a shard must not be committed.
        """
        self._check_complete()
        self._prepare_commit()
        positions = sorted(self._made)
        members = self._tar_members(positions) if self._audio.layout == "webdataset" else {}
        places = self._layout.places(positions, members)
        failures = self._write_failures()
        footer = Footer(
            run=self.run,
            shard=self.shard,
            attempt=self.attempt,
            rows=len(self._rows.keys),
            made=len(positions),
            failed=len(self._failed),
            failures=failures,
            audio_s=round(sum(self._made[position]["duration_s"] for position in positions), 6),
            tar_sha256=self._layout.tar_sha256 if self._version > 1 else None,
        )
        footer = self._finish_footer(footer)
        with temporary_folder() as folder:
            part = folder / "part.parquet"
            write_part(part, schema_with(self._schema, footer), self._make_batches(positions, places))
            footer = wait_for_store(lambda: self._put_part(part, footer), self._patience_s)
        won = footer.attempt == self.attempt
        if not won:
            self._discard_attempt(failures)
        self.close()
        return Committed(won, footer.made, footer.failed, footer.audio_s, footer.closed, footer.attempt)

    # What a writer does otherwise that makes a shard anew (part_rewriter.py)

    def _check_bits(self, key: str, encoded: EncodedAudio) -> None:
        """Look at a clip before it is written."""

    def _keep_values(self, row: TableRow) -> TableRow:
        """Return the row of the index or of `failures/` to be written."""
        return row

    def _prepare_commit(self) -> None:
        """Look at all clips before anything of the shard is written, but for files of layout files."""

    def _finish_footer(self, footer: Footer) -> Footer:
        """Return the footer to be written."""
        return footer

    def _put_part(self, part: Path, footer: Footer) -> Footer:
        """Put the part if absent, and return the footer of the one that is there then. Can be repeated."""
        path = paths.index_part(self.run, self.shard)

        def is_ours() -> bool:
            return read_footer(self.store, path).attempt == self.attempt

        try:
            return footer if self.store.commit_if_absent(path, part, is_ours) else read_footer(self.store, path)
        except FileNotFoundError:  # as on NFS, where a name that is taken may be invisible for some seconds
            raise StoreUnavailable(f"{self.store.join(path)} exists, but cannot be read yet") from None

    def _check_complete(self) -> None:
        missing = [place for place in range(len(self._rows)) if place not in self._made and place not in self._failed]
        if missing:
            raise RuntimeError(
                f"{self.run} shard {self.shard}: {len(missing)} rows neither made nor failed, first at {missing[0]}"
            )

    def _index_row(self, request: Request, key: str, clip: Clip, encoded: EncodedAudio) -> TableRow:
        return {
            "key": key,
            "id": request.id,
            "sample": request.sample,
            "prompt": request.prompt,
            "prompt_tokens": clip.prompt_tokens,
            "prompt_unknown": clip.prompt_unknown,
            "melody": request.melody_uri,
            "melody_sha256": request.melody_sha256,
            "stems": MELODY_STEMS if request.stems and request.melody is not None else None,
            "continuation": request.continuation_uri,
            "continuation_sha256": request.continuation_sha256,
            "duration_s": encoded.duration_s,
            "frames": clip.codes.shape[-1],
            "sample_rate": encoded.sample_rate,
            "channels": encoded.channels,
            "seed": request.seed,
            "temperature": request.temperature,
            "top_k": request.top_k,
            "top_p": request.top_p,
            "guidance_scale": request.guidance_scale,
            "family": self._model.family,
            "negative_prompt": request.negative_prompt or None,
            "steps": request.steps,
            "model": self._model.public_name,
            "model_revision": self._model.revision,
            "audio_format": str(self._audio.format),
            "audio_bytes": len(encoded.data),
            "audio_sha256": encoded.sha256,
            "pcm_sha256": encoded.pcm_sha256,
            "peak_dbfs": encoded.peak_dbfs,
            "loudness_lufs": encoded.loudness_lufs,
            "clipped": encoded.clipped,
            "silent": encoded.silent,
            "engine": clip.engine or self._engine,
            "run": self.run,
            "shard": self.shard,
            "created_at": datetime.now(UTC),
        }

    def _tar_members(self, positions: list[int]) -> dict[int, TableRow]:
        """Return rows for the JSON of a tar's members: without the time, so that equal clips give equal tars."""
        carried = take_carried(self._rows.carried, positions)
        if self._version > 1:  # datasets of version 1 keep the texts that Python makes of dates and bytes
            carried = to_json_table(carried)
        names = {*self._schema.names} - {"created_at"}
        return {
            position: {name: value for name, value in self._made[position].items() if name in names} | carried_row
            for position, carried_row in zip(positions, carried.to_pylist(), strict=True)
        }

    def _make_batches(self, positions: list[int], places: Iterator[Place]) -> Iterator[pa.RecordBatch]:
        batch_positions: list[int] = []
        batch_rows: list[TableRow] = []
        audio_bytes = 0
        for position, place in zip(positions, places, strict=True):
            batch_positions.append(position)
            batch_rows.append(self._made[position] | {"audio": place.audio, "audio_offset": place.audio_offset})
            audio_bytes += self._made[position]["audio_bytes"] if self._audio.layout == "parquet" else 0
            if audio_bytes >= _ROW_GROUP_BYTES:
                yield self._make_batch(batch_positions, batch_rows)
                batch_positions, batch_rows, audio_bytes = [], [], 0
        if batch_positions:
            yield self._make_batch(batch_positions, batch_rows)

    def _make_batch(self, positions: list[int], rows: list[TableRow]) -> pa.RecordBatch:
        codes = [self._codes[position] for position in positions] if self._audio.codes else None
        return make_index_batch(self._schema, rows, codes, take_carried(self._rows.carried, positions))

    def _write_failures(self) -> str | None:
        if not self._failed:
            return None
        path = paths.failures_part(self.run, self.shard, self.attempt)
        rows = [self._failed[position] for position in sorted(self._failed)]
        content = encode_parquet(pa.Table.from_pylist(rows, schema=FAILURES))
        wait_for_store(lambda: self.store.write(path, content), self._patience_s)
        return path

    def _discard_attempt(self, failures: str | None) -> None:
        with contextlib.suppress(StoreError):  # harmless: files that no index part names do not belong to the dataset
            self._layout.discard()
            if failures is not None:
                self.store.delete(failures)
