"""An attempt at a shard while its actor makes it: counts the rows that are settled and writes their outcomes."""

import threading
import time
from functools import partial

from actors.generation_loop import GenerationLoop, QueuedRow, RowOutcome
from actors.messages import EngineFailed, ShardAttempt, ShardReport
from musicgen.clip import Clip
from musicgen.dataset.writer import ShardWriter
from musicgen.errors import RowError, StoreError
from musicgen.job import AudioSettings
from musicgen.plan import Plan, read_shard
from musicgen.storage import Store

_STORAGE_TRIES = 3


class RunningAttempt:
    """Use it in this order: `submit_rows`, `wait`, `commit`, and in any case `close`.

    `driver` names the driver whose attempt it is, `fingerprint` the engine. Raises `StoreError` if the shard's rows
    cannot be read.
    """

    def __init__(
        self, store: Store, plan: Plan, attempt: ShardAttempt, driver: str, audio: AudioSettings, fingerprint: str
    ):
        self.attempt = attempt
        self.settled_rows = 0
        self.audio_s = 0.0
        self._rows = read_shard(store, plan, attempt.shard)
        self._writer = ShardWriter(
            store, plan.run, attempt.shard, f"{driver}-{attempt.number}", self._rows, audio, plan.model, fingerprint
        )
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._unsettled_rows = 0
        self._failure: EngineFailed | None = None

    def submit_rows(self, loop: GenerationLoop) -> None:
        """Record the poison rows as failures, and queue the others. Raises `EngineFailed`."""
        for row in self.attempt.poison_rows:
            self._writer.fail(row.position, RowError(row.error_class, row.reason), row.attempts)
            self.settled_rows += 1
        poison_positions = {row.position for row in self.attempt.poison_rows}
        first, end = self.attempt.row_range or (0, len(self._rows))
        positions = [position for position in range(first, end) if position not in poison_positions]
        self._unsettled_rows = len(positions)
        if not positions:
            self._ended.set()
        requests = self._rows.requests
        loop.submit(
            [
                QueuedRow(requests[position], partial(self._record_outcome, position), self._end_with)
                for position in positions
            ]
        )

    def wait(self) -> None:
        """Wait until every row is settled. Raises `EngineFailed`."""
        self._ended.wait()
        if self._failure is not None:
            raise self._failure

    def commit(self) -> ShardReport:
        """Commit the shard, unless this is a trial. Raises `StoreError`."""
        if self.attempt.is_trial:
            return ShardReport(self.attempt, won=False)
        committed = self._writer.commit()
        return ShardReport(self.attempt, committed.won, committed.made, committed.failed, committed.audio_s)

    def close(self) -> None:
        """Delete the attempt's temporary files."""
        self._writer.close()

    def _record_outcome(self, position: int, outcome: RowOutcome) -> None:
        try:
            if isinstance(outcome, Clip):
                outcome = self._write_clip(position, outcome) or outcome
            if isinstance(outcome, RowError):
                self._writer.fail(position, outcome, self.attempt.number + 1)
        except BaseException as error:  # otherwise the shard would wait forever for this row
            self._end_with(EngineFailed(f"row {position} could not be recorded: {type(error).__name__}: {error}"))
            raise
        with self._lock:
            self._unsettled_rows -= 1
            self.settled_rows += 1
            self.audio_s += outcome.duration_s if isinstance(outcome, Clip) else 0.0
            if not self._unsettled_rows:
                self._ended.set()

    def _write_clip(self, position: int, clip: Clip) -> RowError | None:
        """Write the clip, in several tries. Returns the error if it cannot be written."""
        for number in range(1, _STORAGE_TRIES + 1):
            try:
                self._writer.add(position, clip)
                return None
            except RowError as error:
                return error
            except (StoreError, OSError) as error:
                if number == _STORAGE_TRIES:
                    return RowError("storage", str(error))
                time.sleep(2.0**number)
            except Exception as error:
                return RowError("generation", f"the clip could not be encoded: {type(error).__name__}: {error}")
        return None

    def _end_with(self, failure: EngineFailed) -> None:
        self._failure = failure
        self._ended.set()
