"""Writes one attempt at one shard, from clips to the commit.

The order of the writes makes the commit atomic. The audio comes first, so that every row of the index has its audio;
then the failures, under a name of the attempt; then one index part at the shard's fixed name, only if it is absent. The
attempt that writes that part first commits the shard. An attempt that was given up but still runs changes nothing. If
the store's reply is lost, the attempt in the part's footer shows who committed.
"""

import contextlib
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from musicgen.audio import EncodedAudio, encode_audio
from musicgen.clip import Clip
from musicgen.dataset import paths
from musicgen.dataset.index_part import Footer, read_footer, schema_with, write_part
from musicgen.dataset.layouts import Place, make_layout
from musicgen.dataset.schema import FAILURES, index_schema
from musicgen.errors import RowError, StoreError
from musicgen.job import AudioSettings
from musicgen.request import Request
from musicgen.shard import PlannedModel, ShardRows
from musicgen.storage import Store
from musicgen.value_types import TableRow

_ROW_GROUP_BYTES = 64 << 20  # of audio: a reader of `layout: parquet` holds one row group in memory


@dataclass(frozen=True, slots=True)
class Committed:
    """The counts of a committed shard. `won` is False if another attempt was first; the counts are then that one's."""

    won: bool
    made: int
    failed: int
    audio_s: float


class ShardWriter:
    """Writes one shard: call `add` or `fail` once for each position, from any threads, then `commit`.

    `attempt` must be unique among all attempts at the shard; `engine` is the engine's fingerprint. Storage faults are
    raised as `StoreError`; then nothing is committed, and the call or the whole attempt may be repeated. `commit` frees
    the attempt's temporary files; so do `close` and leaving a `with` block.
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
    ):
        self.store, self.run, self.shard, self.attempt = store, run, shard, attempt
        self._rows, self._audio, self._model, self._engine = rows, audio, model, engine
        self._layout = make_layout(audio.layout, store, audio.format, run, shard, attempt)
        self._schema = index_schema(audio.layout, rows.carried.schema, audio.codes)
        self._made: dict[int, TableRow] = {}
        self._failed: dict[int, TableRow] = {}
        self._lock = threading.Lock()

    def __enter__(self) -> "ShardWriter":
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
        self._layout.add(position, key, encoded.data, encoded.sha256)
        row = self._index_row(request, key, clip, encoded)
        with self._lock:
            self._failed.pop(position, None)
            self._made[position] = row

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
                self._failed[position] = row

    def commit(self) -> Committed:
        """Finish the audio, write the failures, and write the index part if it is absent.

        Raises `RuntimeError` if a row was neither added nor failed, because such a shard must not be committed.
        """
        self._check_complete()
        positions = sorted(self._made)
        members = (
            {position: self._tar_member(position) for position in positions}
            if self._audio.layout == "webdataset"
            else {}
        )
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
        )
        part_path = paths.index_part(self.run, self.shard)
        with tempfile.TemporaryDirectory() as folder:
            temporary_path = Path(folder, "part.parquet")
            write_part(temporary_path, schema_with(self._schema, footer), self._make_batches(positions, places))
            won = self.store.commit_if_absent(
                part_path, temporary_path, lambda: read_footer(self.store, part_path).attempt == self.attempt
            )
        if not won:
            footer = read_footer(self.store, part_path)
            self._discard_attempt(failures)
        self.close()
        return Committed(won, footer.made, footer.failed, footer.audio_s)

    def _check_complete(self) -> None:
        missing = [
            position
            for position in range(len(self._rows.keys))
            if position not in self._made and position not in self._failed
        ]
        if missing:
            raise RuntimeError(
                f"{self.run} shard {self.shard}: {len(missing)} rows neither made nor failed, first at {missing[0]}"
            )

    def _index_row(self, request: Request, key: str, clip: Clip, encoded: EncodedAudio) -> TableRow:
        codes = {"codes": clip.codes.tolist()} if self._audio.codes else {}
        return {
            "key": key,
            "id": request.id,
            "sample": request.sample,
            "prompt": request.prompt,
            "melody": request.melody,
            "melody_sha256": request.melody_sha256,
            "continuation": request.continuation,
            "duration_s": encoded.duration_s,
            "frames": clip.codes.shape[-1],
            "sample_rate": encoded.sample_rate,
            "channels": encoded.channels,
            "seed": request.seed,
            "temperature": request.temperature,
            "top_k": request.top_k,
            "top_p": request.top_p,
            "guidance_scale": request.guidance_scale,
            "model": self._model.name,
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
            **codes,
        }

    def _tar_member(self, position: int) -> TableRow:
        """Return a row for the JSON of a tar's member: without the time, so that equal clips give equal tars."""
        row = {name: value for name, value in self._made[position].items() if name not in ("created_at", "codes")}
        return row | _take_carried(self._rows.carried, [position]).to_pylist()[0]

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
        carried = _take_carried(self._rows.carried, positions)
        own_schema = pa.schema([field for field in self._schema if field.name not in carried.column_names])
        table = pa.Table.from_pylist(rows, schema=own_schema)
        for name in carried.column_names:
            table = table.append_column(name, carried.column(name))
        return table.combine_chunks().to_batches()[0]

    def _write_failures(self) -> str | None:
        if not self._failed:
            return None
        path = paths.failures_part(self.run, self.shard, self.attempt)
        sink = pa.BufferOutputStream()
        pq.write_table(
            pa.Table.from_pylist([self._failed[position] for position in sorted(self._failed)], schema=FAILURES),
            sink,
            compression="zstd",
        )
        self.store.write(path, sink.getvalue().to_pybytes())
        return path

    def _discard_attempt(self, failures: str | None) -> None:
        with contextlib.suppress(StoreError):  # harmless: files that no index part names do not belong to the dataset
            self._layout.discard()
            if failures is not None:
                self.store.delete(failures)


def _take_carried(carried: pa.Table, positions: list[int]) -> pa.Table:
    """Return these rows of the carried columns; without carried columns, a table with as many rows and no columns."""
    if carried.num_columns:
        return carried.take(pa.array(positions, pa.int64()))
    return pa.table({"": pa.nulls(len(positions))}).select([])
