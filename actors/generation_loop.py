"""The generation thread: rows of any number of shards go in, finished clips come out, and the engine never waits.

Rows wait in one queue whatever shard they are of, so slots stay full across shard borders. What is finished goes to a
pool of writers beside generation; a bounded backlog keeps a slow store from filling memory.
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

Outcome = Clip | RowError


class Engine(Protocol):
    """What the generation thread needs of an engine; `musicgen.engine.Engine` is one."""

    @property
    def slots(self) -> int: ...
    @property
    def fingerprint(self) -> str: ...
    @property
    def room(self) -> int: ...
    @property
    def busy(self) -> bool: ...
    def add(self, request: Request) -> None: ...
    def step(self) -> Sequence[Clip | Failed]: ...
    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Row:
    """A request and whom to tell. `settle` runs in a writer thread, `lost` if the generation thread ends first."""

    request: Request
    settle: Callable[[Outcome], None]
    lost: Callable[[EngineFailed], None]


class Feed:
    """Drives an engine from a queue of rows in a thread of its own."""

    def __init__(self, engine: Engine, writers: int = 4, backlog: int | None = None):
        self.clips = 0
        self.audio_s = 0.0
        self._engine = engine
        self._queue: deque[Row] = deque()
        self._inside: dict[Request, deque[Row]] = defaultdict(deque)  # equal requests share a key; first in, first out
        self._wake = threading.Condition()
        self._closing = False
        self._failure: EngineFailed | None = None
        self._mark = (time.monotonic(), -1)  # when progress was last seen, and the step count then
        self._writers = ThreadPoolExecutor(writers, thread_name_prefix="writer")
        self._backlog = threading.BoundedSemaphore(backlog or engine.slots + writers)
        self._thread = threading.Thread(target=self._run, name="generation", daemon=True)
        self._thread.start()

    def submit(self, rows: Sequence[Row]) -> None:
        """Queue rows behind those that wait. Raises `EngineFailed` if the generation thread has ended."""
        with self._wake:
            if self._failure is not None:
                raise self._failure
            if not self._queue and not self._inside:
                self._beat()
            self._queue.extend(rows)
            self._wake.notify_all()

    def stalled_s(self) -> float:
        """Seconds since the last progress: an event, or a decode step if the engine counts them. 0 without work."""
        if not (self._queue or self._inside) or self._failure is not None:
            return 0.0
        seen, steps = self._mark
        if getattr(self._engine, "steps", steps) != steps:
            self._beat()
            return 0.0
        return time.monotonic() - seen

    def close(self) -> None:
        """End the thread after the step it is in; rows that wait are dropped."""
        with self._wake:
            self._closing = True
            self._wake.notify_all()
        self._thread.join(30)
        self._writers.shutdown(wait=False, cancel_futures=True)

    def _beat(self) -> None:
        self._mark = (time.monotonic(), getattr(self._engine, "steps", -1))

    def _run(self) -> None:
        try:
            while self._wait():
                self._admit()
                if self._engine.busy:
                    for outcome in self._engine.step():
                        self._finished(outcome)
                self._beat()
            self._end(EngineFailed("the actor is closing"))
        except BaseException as error:  # whatever it is, the shards that wait must hear of it
            self._end(EngineFailed(f"{type(error).__name__}: {error}"))

    def _wait(self) -> bool:
        with self._wake:
            while not (self._queue or self._closing or self._engine.busy):
                self._wake.wait()
            return not self._closing

    def _admit(self) -> None:
        while self._engine.room > 0:
            with self._wake:
                if not self._queue:
                    return
                row = self._queue.popleft()
                self._inside[row.request].append(row)
            try:
                self._engine.add(row.request)
            except RowError as error:
                self._finished(Failed(row.request, error))

    def _finished(self, outcome: Clip | Failed) -> None:
        waiting = self._inside[outcome.request]
        row = waiting.popleft()
        if not waiting:
            del self._inside[outcome.request]
        result: Outcome
        if isinstance(outcome, Failed):
            result = outcome.error
        else:
            result = outcome
            self.clips += 1
            self.audio_s += outcome.duration_s
        self._backlog.acquire()
        self._beat()  # having waited for a slow store is not standing still
        self._writers.submit(self._settle, row, result)

    def _settle(self, row: Row, result: Outcome) -> None:
        try:
            row.settle(result)
        finally:
            self._backlog.release()

    def _end(self, failure: EngineFailed) -> None:
        with self._wake:
            self._failure = failure
            lost = [*self._queue, *(row for rows in self._inside.values() for row in rows)]
            self._queue.clear()
            self._inside.clear()
        for row in lost:
            row.lost(failure)
