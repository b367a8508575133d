"""A queue of finished codes that become sound, several clips at a time: the codec's LSTM reads its weights once per
batch.

Which clips share a batch depends on the clock; their sound does not (`Codec.decode_all`).
"""

import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from musicgen.conditioning.workers import BackgroundWorkers

Ticket = TypeVar("Ticket")
Codes = NDArray[np.int16]
Audio = NDArray[np.float32]
Decode = Callable[[Sequence[Codes]], list[Audio]]

_MAX_BATCH_CLIPS = 16
_MAX_BATCH_FRAMES = 12_000  # four minutes of sound, whose LSTM states take 50 MB
_FULL_BATCH_CLIPS = 4  # a batch of so many clips is decoded without waiting for more
_MAX_WAIT_S = 1.0


class DecodeQueue(Generic[Ticket]):
    """Decodes codes on background workers.

    `decode` is a codec's `decode_all`; a ticket identifies the clip of some codes.
    """

    def __init__(self, decode: Decode, background: BackgroundWorkers, workers: int):
        self._decode = decode
        self._background = background
        self._workers = workers
        self._waiting: deque[tuple[Ticket, Codes, float]] = deque()
        self._running: dict[Future[list[Audio]], list[tuple[Ticket, Codes]]] = {}

    def __len__(self) -> int:
        """Clips that wait or are being decoded."""
        return len(self._waiting) + sum(len(batch) for batch in self._running.values())

    @property
    def tickets(self) -> list[Ticket]:
        """The clips that wait or are being decoded. It may be asked for in any thread."""
        waiting = [ticket for ticket, _, _ in list(self._waiting)]
        return [*waiting, *(ticket for batch in list(self._running.values()) for ticket, _ in batch)]

    def add(self, ticket: Ticket, codes: Codes) -> None:
        """Queue codes [codebooks, frames]."""
        self._waiting.append((ticket, codes, time.monotonic()))

    def poll(self, last: bool, block: bool) -> list[tuple[Ticket, Audio | Exception]]:
        """Start batches that are large or old enough, and return the clips that are finished: their sound, or the
        error.

        `last` says that no more codes will come soon, so that every clip is started; `block` waits for a batch to
        finish.
        """
        self._start_batches(last)
        if block and self._running:
            wait(self._running, return_when=FIRST_COMPLETED)
        finished: list[tuple[Ticket, Audio | Exception]] = []
        for future in [future for future in self._running if future.done()]:
            batch = self._running.pop(future)
            error = future.exception()
            if error is None:
                finished += zip((ticket for ticket, _ in batch), future.result(), strict=True)
            elif len(batch) == 1:
                finished.append((batch[0][0], error if isinstance(error, Exception) else RuntimeError(str(error))))
            else:  # either one clip's codes are bad or the batch takes too much memory: decode each clip by itself
                for ticket, codes in batch:
                    self._submit([(ticket, codes)])
        return finished

    def _start_batches(self, last: bool) -> None:
        while self._waiting and len(self._running) < self._workers:
            oldest_wait_s = time.monotonic() - self._waiting[0][2]
            if not (last or len(self._waiting) >= _FULL_BATCH_CLIPS or oldest_wait_s > _MAX_WAIT_S):
                return
            self._submit(self._take_batch(last))

    def _take_batch(self, last: bool) -> list[tuple[Ticket, Codes]]:
        """Take clips off the queue for one batch; `last` shares them evenly between the free workers."""
        free_workers = self._workers - len(self._running)
        share = -(-len(self._waiting) // free_workers) if last else len(self._waiting)
        batch: list[tuple[Ticket, Codes]] = []
        frames = 0
        while self._waiting and len(batch) < min(share, _MAX_BATCH_CLIPS):
            frames += self._waiting[0][1].shape[1]
            if batch and frames > _MAX_BATCH_FRAMES:
                break
            ticket, codes, _ = self._waiting.popleft()
            batch.append((ticket, codes))
        return batch

    def _submit(self, batch: list[tuple[Ticket, Codes]]) -> None:
        self._running[self._background.submit(self._decode, [codes for _, codes in batch])] = batch
