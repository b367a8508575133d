"""Work beside the step: conditions are prepared before a clip's turn, and its codes become sound after it.

Each worker computes with one thread, always: what a library sums in which order may depend on the number of threads,
and must not depend on the machine or on whose thread asks. On CUDA a worker has a stream of its own.
"""

import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext, suppress
from threading import get_native_id, local
from typing import Any, TypeVar

import torch

Result = TypeVar("Result")

_NICE = 5  # a quarter of a contended core: the codec needs about a tenth to keep pace


class BackgroundWorkers:
    """A few threads for conditioning and codec."""

    def __init__(self, device: torch.device, workers: int):
        self._device = device
        self._own = local()
        before = torch.get_num_threads()
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="beside", initializer=self._begin)
        # Start all workers now: set_num_threads is also the default of threads to come, which is put right after.
        for waiting in [self._pool.submit(torch.get_num_threads) for _ in range(workers)]:
            waiting.result()
        torch.set_num_threads(before)

    def _begin(self) -> None:
        torch.set_num_threads(1)
        # The step's threads wait for each other hundreds of times a step: one that has lost its core holds up all.
        with suppress(AttributeError, OSError):  # Linux takes a thread's id here; elsewhere there is no such call
            os.setpriority(os.PRIO_PROCESS, get_native_id(), min(19, os.getpriority(os.PRIO_PROCESS, 0) + _NICE))
        if self._device.type == "cuda":
            self._own.stream = torch.cuda.Stream(self._device)
            torch.cuda.default_stream(
                self._device
            ).synchronize()  # weights were put there by it, and this stream does not wait for it

    def submit(self, work: Callable[..., Result], *arguments: Any) -> "Future[Result]":
        """Begin `work`; its result, or what it raises, is in the future."""
        return self._pool.submit(self._run, work, *arguments)

    def _run(self, work: Callable[..., Result], *arguments: Any) -> Result:
        stream: AbstractContextManager[Any] = (
            torch.cuda.stream(self._own.stream) if self._device.type == "cuda" else nullcontext()
        )
        with stream:
            result = work(*arguments)
            if self._device.type == "cuda":
                # The result is read by another stream. Its memory comes back to this one when it is dropped: whoever
                # takes it keeps
                # it until what reads it is done, as the engine keeps a clip's conditions until it has read the clip's
                # codes.
                self._own.stream.synchronize()
            return result

    def close(self) -> None:
        """Give up what waits, and stop once what runs is done."""
        self._pool.shutdown(wait=False, cancel_futures=True)
