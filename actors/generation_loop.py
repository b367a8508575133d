"""The thread that drives an engine: rows of any number of shards go in, and their outcomes are handed to writers.

All rows wait in one queue, whichever shard they belong to, so that the engine's slots stay full from one shard to the
next. Outcomes are handed to a pool of writer threads, so that storage does not hold up the engine. The number of
outcomes that wait for a writer is bounded, so that a slow store does not fill memory.
"""

import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

from actors.messages import EngineFailed
from musicgen.clip import Clip, Failed
from musicgen.errors import RowError
from musicgen.request import Request

RowOutcome = Clip | RowError


class GenerationEngine(Protocol):
    """What an actor needs of an engine; `musicgen.engine.Engine` is one."""

    steps: int  # decode steps so far

    @property
    def slots(self) -> int:
        """Clips that run at once."""

    @property
    def fingerprint(self) -> str:
        """What the bits of a clip may depend on besides its request, as JSON."""

    @property
    def room(self) -> int:
        """How many more requests the engine should be given now."""

    @property
    def busy(self) -> bool:
        """Whether `step` has anything left to do or to return."""

    def add(self, request: Request) -> None:
        """Queue a request. Raises `RowError` for one that the model cannot make."""

    def step(self) -> Sequence[Clip | Failed]:
        """Run for a while and return what is finished, perhaps nothing."""

    def close(self) -> None:
        """Stop the engine's threads."""


@dataclass(frozen=True, slots=True)
class QueuedRow:
    """A request and its callbacks.

    `on_outcome` is called in a writer thread; `on_engine_failed` instead, if the generation thread ends first.
    """

    request: Request
    on_outcome: Callable[[RowOutcome], None]
    on_engine_failed: Callable[[EngineFailed], None]


class GenerationLoop:
    """Drives an engine from a queue of rows, in a thread of its own.

    `backlog` (default: slots + writers) is the most outcomes that may wait for a writer or be in its hands.
    """

    def __init__(self, engine: GenerationEngine, writers: int = 4, backlog: int | None = None):
        self._engine = engine
        self._queue: deque[QueuedRow] = deque()
        # The rows that the engine holds. Equal requests share an entry, and the first one in is the first one out.
        self._in_engine: dict[Request, deque[QueuedRow]] = defaultdict(deque)
        self._queue_changed = threading.Condition()
        self._closing = False
        self._failure: EngineFailed | None = None
        self._last_progress = (time.monotonic(), engine.steps)  # when progress was last seen, and the step count then
        self._writers = ThreadPoolExecutor(writers, thread_name_prefix="writer")
        self._backlog = threading.BoundedSemaphore(backlog or engine.slots + writers)
        self._thread = threading.Thread(target=self._run_engine, name="generation", daemon=True)
        self._thread.start()

    def submit(self, rows: Sequence[QueuedRow]) -> None:
        """Append rows to the queue. Raises `EngineFailed` if the generation thread has ended."""
        with self._queue_changed:
            if self._failure is not None:
                raise self._failure
            if not self._queue and not self._in_engine:
                self._note_progress()
            self._queue.extend(rows)
            self._queue_changed.notify_all()

    def stalled_s(self) -> float:
        """Return the seconds since the last progress, which is an event or a decode step; 0 if there is no work."""
        if not (self._queue or self._in_engine) or self._failure is not None:
            return 0.0
        seen_at, steps = self._last_progress
        if self._engine.steps != steps:
            self._note_progress()
            return 0.0
        return time.monotonic() - seen_at

    def close(self) -> None:
        """End the thread after the step that it is in; rows that wait are dropped."""
        with self._queue_changed:
            self._closing = True
            self._queue_changed.notify_all()
        self._thread.join(30)
        self._writers.shutdown(wait=False, cancel_futures=True)

    def _note_progress(self) -> None:
        self._last_progress = (time.monotonic(), self._engine.steps)

    def _run_engine(self) -> None:
        try:
            while self._wait_for_work():
                self._admit_rows()
                if self._engine.busy:
                    for outcome in self._engine.step():
                        self._hand_to_writer(outcome)
                self._note_progress()
            self._drop_rows(EngineFailed("the actor is closing"))
        except BaseException as error:  # of any kind: otherwise the shards that wait for rows would wait forever
            self._drop_rows(EngineFailed(f"{type(error).__name__}: {error}"))

    def _wait_for_work(self) -> bool:
        """Wait until there is work. Returns False if the loop is to end."""
        with self._queue_changed:
            while not (self._queue or self._closing or self._engine.busy):
                self._queue_changed.wait()
            return not self._closing

    def _admit_rows(self) -> None:
        while self._engine.room > 0:
            with self._queue_changed:
                if not self._queue:
                    return
                row = self._queue.popleft()
                self._in_engine[row.request].append(row)
            try:
                self._engine.add(row.request)
            except RowError as error:
                self._hand_to_writer(Failed(row.request, error))

    def _hand_to_writer(self, finished: Clip | Failed) -> None:
        """Hand the outcome to a writer, after waiting until the backlog has room for it."""
        equal_rows = self._in_engine[finished.request]
        row = equal_rows.popleft()
        if not equal_rows:
            del self._in_engine[finished.request]
        outcome: RowOutcome = finished.error if isinstance(finished, Failed) else finished
        self._backlog.acquire()
        self._note_progress()  # waiting for a slow store is not a stall of generation
        self._writers.submit(self._report_outcome, row, outcome)

    def _report_outcome(self, row: QueuedRow, outcome: RowOutcome) -> None:
        try:
            row.on_outcome(outcome)
        finally:
            self._backlog.release()

    def _drop_rows(self, failure: EngineFailed) -> None:
        with self._queue_changed:
            self._failure = failure
            dropped = [*self._queue, *(row for rows in self._in_engine.values() for row in rows)]
            self._queue.clear()
            self._in_engine.clear()
        for row in dropped:
            row.on_engine_failed(failure)
