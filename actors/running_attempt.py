"""An attempt at a shard while its actor makes it: counts the rows that are settled and writes their outcomes."""

import platform
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

from actors.actor_config import ActorConfig
from actors.generation_loop import GenerationLoop, QueuedRow, RowOutcome
from actors.messages import EngineFailed, NodeFault, ShardAttempt, ShardReport
from musicgen.clip import Clip
from musicgen.dataset.writer import ShardWriter
from musicgen.errors import MusicGenError, RowError, StoreError
from musicgen.plan import read_shard
from musicgen.request import Request
from musicgen.storage import Store
from musicgen.storage.patience import wait_for_store


def make_harmless(request: Request) -> Request:
    """Return a request of the same length and settings that cannot be what ends a process."""
    return replace(
        request,
        prompt="piano",
        melody=None,
        melody_sha256=None,
        continuation=None,
        continuation_sha256=None,
        negative_prompt="",
    )


class RunningAttempt:
    """Use it in this order: `submit_rows`, `wait`, `commit`, and in any case `close`.

    `fingerprint` names the engine. A store that cannot be used costs time and no row: each call waits for it, for at
    most `config.store_patience_s` seconds, and a clip that is finished waits with its writer thread. After that, and at
    faults of the store that time does not cure, `StoreError` is raised; `NodeFault` where this machine's disk is full.
    The shard's rows are read at once.
    """

    def __init__(self, store: Store, config: ActorConfig, attempt: ShardAttempt, fingerprint: str):
        self.attempt = attempt
        self.settled_rows = 0
        self.clips = 0
        self.audio_s = 0.0
        plan, patience_s = config.plan, config.store_patience_s
        self._rows = wait_for_store(lambda: read_shard(store, plan, attempt.shard), patience_s)
        with _disk_faults_are_the_nodes():
            self._writer = ShardWriter(
                store,
                plan.run,
                attempt.shard,
                f"{config.driver}-{attempt.number}",
                self._rows,
                config.audio,
                plan.model,
                fingerprint,
                patience_s,
            )
        self._failures: Counter[str] = Counter()  # by class
        self._queued: list[QueuedRow] = []
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._unsettled_rows = 0
        self._failure: MusicGenError | None = None
        self._begun_at: dict[object, float] = {}  # what writer threads and the commit are doing, and since when

    def submit_rows(self, loop: GenerationLoop) -> None:
        """Record the poison rows as failures, and queue the others. Raises the reason if generation has ended."""
        for row in self.attempt.poison_rows:
            self._fail(row.position, RowError(row.error_class, row.reason), row.attempts)
            self.settled_rows += 1
        poison_positions = {row.position for row in self.attempt.poison_rows}
        first, end = self.attempt.row_range or (0, len(self._rows))
        positions = [position for position in range(first, end) if position not in poison_positions]
        self._unsettled_rows = len(positions)
        if not positions:
            self._ended.set()
        requests = [self._rows.requests[position] for position in positions]
        if self.attempt.harmless:
            requests = [make_harmless(request) for request in requests]
        self._queued = [
            QueuedRow(request, partial(self._record_outcome, position), self._end_with)
            for position, request in zip(positions, requests, strict=True)
        ]
        loop.submit(self._queued)

    def wait(self, loop: GenerationLoop) -> None:
        """Wait until every row is settled.

        Raises the reason if that will never be; the rows that were still to be made are withdrawn.
        """
        self._ended.wait()
        if self._failure is not None:
            loop.withdraw(self._queued)
            raise self._failure

    def commit(self) -> ShardReport:
        """Commit the shard, unless this is a trial. Raises `StoreError` or `NodeFault`."""
        if self.attempt.is_trial:
            return ShardReport(self.attempt, won=False, made=self.clips)
        with self._measured(), _disk_faults_are_the_nodes():
            done = self._writer.commit()
        counts = (done.made, done.failed, done.audio_s, done.closed_by, done.attempt)
        return ShardReport(self.attempt, done.won, *counts, failures=tuple(sorted(self._failures.items())))

    def stalled_s(self) -> float:
        """Return for how many seconds the slowest writer thread, or the commit, has been at its work."""
        return time.monotonic() - min(list(self._begun_at.values()), default=time.monotonic())

    def close(self) -> None:
        """Delete the attempt's temporary files."""
        self._writer.close()

    def _record_outcome(self, position: int, outcome: RowOutcome) -> None:
        if self._ended.is_set():  # the attempt has failed, and its writer is closed
            return
        try:
            with self._measured(), _disk_faults_are_the_nodes():
                made = isinstance(outcome, Clip) and (self.attempt.harmless or self._write_clip(position, outcome))
                if isinstance(outcome, RowError) and not self.attempt.harmless:
                    self._fail(position, outcome, self.attempt.number + 1)
        except MusicGenError as error:
            self._end_with(error)
            return
        except BaseException as error:  # otherwise the shard would wait forever for this row
            self._end_with(EngineFailed(f"row {position} could not be recorded: {type(error).__name__}: {error}"))
            raise
        with self._lock:
            self._unsettled_rows -= 1
            self.settled_rows += 1
            if made and isinstance(outcome, Clip):
                self.clips += 1
                self.audio_s += outcome.duration_s
            if not self._unsettled_rows:
                self._ended.set()

    def _write_clip(self, position: int, clip: Clip) -> bool:
        """Write the clip. Returns False if it cannot be encoded, which is then recorded."""
        try:
            self._writer.add(position, clip)
            return True
        except RowError as error:
            self._fail(position, error, self.attempt.number + 1)
        except (MusicGenError, OSError, MemoryError):
            raise
        except Exception as error:
            reason = f"the clip could not be encoded: {type(error).__name__}: {error}"
            self._fail(position, RowError("generation", reason), self.attempt.number + 1)
        return False

    def _fail(self, position: int, error: RowError, attempts: int) -> None:
        self._writer.fail(position, error, attempts)
        with self._lock:
            self._failures[error.error_class] += 1

    def _end_with(self, failure: MusicGenError) -> None:
        self._failure = self._failure or failure
        self._ended.set()

    @contextmanager
    def _measured(self) -> Iterator[None]:
        token = object()
        self._begun_at[token] = time.monotonic()
        try:
            yield
        finally:
            del self._begun_at[token]


@contextmanager
def _disk_faults_are_the_nodes() -> Iterator[None]:
    """Raise `NodeFault` for an `OSError` or lack of memory: faults of the store are `StoreError`, so it is our own."""
    try:
        yield
    except FileNotFoundError as error:
        raise StoreError(f"{error.filename or error} was deleted while it was in use") from error
    except OSError as error:
        raise NodeFault(
            f"the disk of {platform.node()} for temporary files ({tempfile.gettempdir()}): "
            f"{error.strerror or error}; make room there, or set TMPDIR to a folder with more"
        ) from error
    except MemoryError as error:
        raise NodeFault(
            f"{platform.node()} has too little memory to write a clip: {error or 'out of memory'}"
        ) from error
