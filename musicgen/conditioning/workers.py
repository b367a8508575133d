"""Runs conditioning and codec on background threads, at the same time as the engine's steps.

Each worker always computes with a single thread: the order in which a library sums may depend on the number of threads,
and results must depend neither on the machine nor on the calling thread. On CUDA each worker has a stream of its own.
"""

import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext, suppress
from threading import Barrier, get_native_id, local
from typing import TypeVar

import torch

Result = TypeVar("Result")

_NICE = 5  # gives a quarter of a contended core; the codec needs about a tenth of one to keep up with the steps


class BackgroundWorkers:
    """A pool of `workers` threads, each computing with a single thread at a lower priority."""

    def __init__(self, device: torch.device, workers: int):
        self._device = device
        self._thread_state = local()
        thread_count = torch.get_num_threads()
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="beside", initializer=self._configure_thread)
        # All workers start now, because set_num_threads also sets the default of later threads, which is restored here.
        # They wait for each other: else one of them may do the work of all while another has yet to start.
        started = Barrier(workers)
        for future in [self._pool.submit(started.wait) for _ in range(workers)]:
            future.result()
        torch.set_num_threads(thread_count)

    def _configure_thread(self) -> None:
        torch.set_num_threads(1)
        torch.get_num_threads()  # a thread's first call takes the default of that moment as its own number
        # The threads of a step wait for each other hundreds of times, so one that loses its core delays them all.
        with suppress(AttributeError, OSError):  # only Linux accepts a thread's id here
            os.setpriority(os.PRIO_PROCESS, get_native_id(), min(19, os.getpriority(os.PRIO_PROCESS, 0) + _NICE))
        if self._device.type == "cuda":
            self._thread_state.stream = torch.cuda.Stream(self._device)
            # The weights were copied on the default stream, for which this stream does not wait by itself.
            torch.cuda.default_stream(self._device).synchronize()

    def submit(self, work: Callable[..., Result], *arguments: object) -> "Future[Result]":
        """Run `work(*arguments)` on a worker; the future holds its result or its exception."""
        return self._pool.submit(self._run_work, work, *arguments)

    def _run_work(self, work: Callable[..., Result], *arguments: object) -> Result:
        stream: AbstractContextManager[object] = (
            torch.cuda.stream(self._thread_state.stream) if self._device.type == "cuda" else nullcontext()
        )
        with stream:
            result = work(*arguments)
            if self._device.type == "cuda":
                # Another stream will read the result. Its memory returns to this stream when the result is dropped, so
                # its owner must keep it until the reading work has finished. The engine keeps a clip's conditions until
                # it has read the clip's codes.
                self._thread_state.stream.synchronize()
            return result

    def close(self) -> None:
        """Cancel waiting work, and stop when running work has finished."""
        self._pool.shutdown(wait=False, cancel_futures=True)
