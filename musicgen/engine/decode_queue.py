"""Codes on their way to sound, several clips at a time: a codec's LSTM reads its weights once for all of them.

Which clips go together depends on the clock; what each sounds like does not (`Codec.decode_all`).
"""

import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from musicgen.conditioning.workers import Beside

Ticket = TypeVar("Ticket")
Codes = NDArray[np.int16]
Audio = NDArray[np.float32]
Decode = Callable[[Sequence[Codes]], list[Audio]]

_MAX_BATCH_CLIPS = 16  # clips at a time
_MAX_BATCH_FRAMES = 12_000  # of all of them: four minutes, whose states take 50 MB
_FULL_BATCH_CLIPS = 4  # clips that are not kept waiting for more
_MAX_WAIT_S = 1.0


class DecodeQueue(Generic[Ticket]):
    """Decodes beside the step. `decode` is a codec's `decode_all`; a ticket says whose codes they are."""

    def __init__(self, decode: Decode, beside: Beside, workers: int):
        self._decode = decode
        self._beside = beside
        self._workers = workers
        self._waiting: deque[tuple[Ticket, Codes, float]] = deque()
        self._running: dict[Future[list[Audio]], list[tuple[Ticket, Codes]]] = {}

    def __len__(self) -> int:
        """Clips that wait or are being decoded."""
        return len(self._waiting) + sum(len(batch) for batch in self._running.values())

    def add(self, ticket: Ticket, codes: Codes) -> None:
        """Queue codes [codebooks, frames]."""
        self._waiting.append((ticket, codes, time.monotonic()))

    def poll(self, last: bool, block: bool) -> list[tuple[Ticket, Audio | Exception]]:
        """Begin what is worth beginning, and give back what is finished: sound, or why there is none.

        `last` says that no more codes are to come soon; `block` waits for something to finish.
        """
        self._begin(last)
        if block and self._running:
            wait(self._running, return_when=FIRST_COMPLETED)
        finished: list[tuple[Ticket, Audio | Exception]] = []
        for future in [f for f in self._running if f.done()]:
            batch = self._running.pop(future)
            error = future.exception()
            if error is None:
                finished += zip((ticket for ticket, _ in batch), future.result(), strict=True)
            elif len(batch) == 1:
                finished.append((batch[0][0], error if isinstance(error, Exception) else RuntimeError(str(error))))
            else:  # one clip's codes, or too much memory: each by itself
                for ticket, codes in batch:
                    self._submit([(ticket, codes)])
        return finished

    def _begin(self, last: bool) -> None:
        while self._waiting and len(self._running) < self._workers:
            worth = len(self._waiting) >= _FULL_BATCH_CLIPS or time.monotonic() - self._waiting[0][2] > _MAX_WAIT_S
            if not (last or worth):
                return
            share = -(-len(self._waiting) // (self._workers - len(self._running))) if last else len(self._waiting)
            batch: list[tuple[Ticket, Codes]] = []
            frames = 0
            while self._waiting and len(batch) < min(share, _MAX_BATCH_CLIPS):
                frames += self._waiting[0][1].shape[1]
                if batch and frames > _MAX_BATCH_FRAMES:
                    break
                ticket, codes, _ = self._waiting.popleft()
                batch.append((ticket, codes))
            self._submit(batch)

    def _submit(self, batch: list[tuple[Ticket, Codes]]) -> None:
        self._running[self._beside.submit(self._decode, [codes for _, codes in batch])] = batch
