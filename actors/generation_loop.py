"""The thread that drives an engine: rows of any number of shards go in, and their outcomes are handed to writers.

All rows wait in one queue, whichever shard they belong to, so that the engine's slots stay full from one shard to the
next. Outcomes are handed to a pool of writer threads, so that storage does not hold up the engine. The number of
outcomes that wait for a writer is bounded, so that a slow store does not fill memory.
"""

import platform
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass

from actors.messages import EngineFailed, NodeFault, SlotsLowered
from musicgen.clip import Clip, Failed
from musicgen.errors import MusicGenError, RowError, StoreError, StoreFull
from musicgen.families.family import GenerationEngine
from musicgen.request import Request

RowOutcome = Clip | RowError


@dataclass(frozen=True, slots=True)
class QueuedRow:
    """A request and its callbacks.

    `on_outcome` is called in a writer thread; `on_dropped` instead, if the generation thread ends first, with the
    reason: `EngineFailed`, `SlotsLowered`, or the `StoreError` of a store that the conditions of a row lie in.
    """

    request: Request
    on_outcome: Callable[[RowOutcome], None]
    on_dropped: Callable[[MusicGenError], None]


class GenerationLoop:
    """Drives an engine from a queue of rows, in a thread of its own.

    `backlog` (default: slots + writers) is the most outcomes that may wait for a writer or be in its hands.
    `lower_slots` is called with the slots that are left when the engine has run out of memory. After the first clip
    the thread ends then (`SlotsLowered`); without `lower_slots` it goes on.
    """

    def __init__(
        self,
        engine: GenerationEngine,
        writers: int = 4,
        backlog: int | None = None,
        lower_slots: Callable[[int], None] | None = None,
    ):
        self.step_s = 0.0  # seconds in the engine's steps
        self._engine = engine
        self._slots = engine.slots
        self._lower_slots = lower_slots
        self._queue: deque[QueuedRow] = deque()
        # The rows that the engine holds. Equal requests share an entry, and the first one in is the first one out.
        self._in_engine: dict[Request, deque[QueuedRow]] = defaultdict(deque)
        self._queue_changed = threading.Condition()
        self._closing = False
        self._failure: MusicGenError | None = None
        self._waits_for_writers = False
        self._last_progress = (time.monotonic(), engine.steps)  # when progress was last seen, and the step count then
        self._writers = ThreadPoolExecutor(writers, thread_name_prefix="writer")
        self._backlog = threading.BoundedSemaphore(backlog or engine.slots + writers)
        self._thread = threading.Thread(target=self._run_engine, name="generation", daemon=True)
        self._thread.start()

    def submit(self, rows: Sequence[QueuedRow]) -> None:
        """Append rows to the queue. Raises the reason if the generation thread has ended."""
        with self._queue_changed:
            if self._failure is not None:
                raise self._failure
            if not self._queue and not self._in_engine:
                self._note_progress()
            self._queue.extend(rows)
            self._queue_changed.notify_all()

    def withdraw(self, rows: Sequence[QueuedRow]) -> None:
        """Remove those of the rows that still wait in the queue; nothing is called for them."""
        with self._queue_changed:
            identities = {id(row) for row in rows}
            kept = [row for row in self._queue if id(row) not in identities]
            self._queue.clear()
            self._queue.extend(kept)

    @property
    def queued_rows(self) -> int:
        """How many rows wait for the engine."""
        return len(self._queue)

    @property
    def rows_in_engine(self) -> int:
        """How many rows the engine has that are not finished. It may be asked for in any thread."""
        return sum(len(rows) for rows in list(self._in_engine.values()))

    def stalled_s(self) -> float:
        """Return the seconds since the last progress, which is an event or a decode step.

        It is 0 if the thread has no work, or waits for writers, whose own delays are measured elsewhere.
        """
        if not (self._queue or self._in_engine) or self._failure is not None or self._waits_for_writers:
            return 0.0
        seen_at, steps = self._last_progress
        if self._engine.steps != steps:
            self._note_progress()
            return 0.0
        return time.monotonic() - seen_at

    def close(self, wait_s: float = 30.0) -> bool:
        """End the thread after the step that it is in; rows that wait are dropped.

        Returns whether it has ended within `wait_s`.
        """
        with self._queue_changed:
            self._closing = True
            self._queue_changed.notify_all()
        self._thread.join(wait_s)
        self._writers.shutdown(wait=False, cancel_futures=True)
        return not self._thread.is_alive()

    def _note_progress(self) -> None:
        self._last_progress = (time.monotonic(), self._engine.steps)

    def _run_engine(self) -> None:
        try:
            while self._wait_for_work():
                self._admit_rows()
                if self._engine.busy:
                    began_at = time.monotonic()
                    outcomes = self._engine.step()
                    self.step_s += time.monotonic() - began_at
                    for outcome in outcomes:
                        self._hand_to_writer(outcome)
                    self._look_at_slots()
                self._note_progress()
            self._drop_rows(EngineFailed("the actor is closing"))
        except StoreFull as error:  # conditions write nothing but temporary files of this machine
            self._drop_rows(NodeFault(str(error)))
        except (StoreError, SlotsLowered) as error:
            self._drop_rows(error)
        except BaseException as error:  # of any kind: otherwise the shards that wait for rows would wait forever
            self._drop_rows(EngineFailed(f"{type(error).__name__}: {error}"))

    def _look_at_slots(self) -> None:
        """Tell those that start later when the engine has halved its slots for lack of memory."""
        before, self._slots = self._slots, self._engine.slots
        if self._slots >= before or self._lower_slots is None:
            return
        with suppress(StoreError):  # it is a help for those that start later, which else lower it again
            self._lower_slots(self._slots)
        if self._engine.has_made_clips:
            raise SlotsLowered(
                f"{platform.node()} ran out of memory with {before} slots; actors that start now have {self._slots}"
            )

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
        self._waits_for_writers = True
        self._backlog.acquire()
        self._note_progress()
        self._waits_for_writers = False
        self._writers.submit(self._report_outcome, row, outcome)

    def _report_outcome(self, row: QueuedRow, outcome: RowOutcome) -> None:
        try:
            row.on_outcome(outcome)
        finally:
            self._backlog.release()

    def _drop_rows(self, failure: MusicGenError) -> None:
        with self._queue_changed:
            self._failure = failure
            dropped = [*self._queue, *(row for rows in self._in_engine.values() for row in rows)]
            self._queue.clear()
            self._in_engine.clear()
        for row in dropped:
            row.on_dropped(failure)
