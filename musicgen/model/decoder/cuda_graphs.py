"""CUDA graphs of the decode step: its thousands of small kernels are launched as one, so the host keeps no GPU waiting.

A captured step reads and writes the very memory that it was captured with. So what changes from step to step lies in
buffers that are filled in place, and what the host decides (how many blocks of the cache are read, whether anybody needs a
sort) is the graph's key: one graph per key, captured when it is needed, all in one pool of memory, since never two run at
once. The kernels are those of the eager step, and so are the bits.

`CudaCapture` follows torch's notes on CUDA graphs and was never run: no GPU was at hand. All else is tested on a CPU, with a
recorder in its place.
"""

import logging
import os
import threading
from collections.abc import Callable, Hashable
from functools import partial
from typing import Any, Protocol

import torch

log = logging.getLogger(__name__)

Work = Callable[[], None]

_ONE_AT_A_TIME = threading.Lock()  # captures, in a process
_BROKEN: list[Any] = []  # graphs whose capture failed: never destroyed, for torch's allocator may go on asking them


class GraphCapture(Protocol):
    """Turns work into something that does it again, in the same memory. The work must not read anything back."""

    def warm(self, work: Work) -> None:
        """Do the work as it would be done in a capture."""

    def capture(self, work: Work) -> Work:
        """What does the work when it is called; now nothing is done. Raises whatever goes wrong."""

    def forget(self) -> None:
        """All that was captured is about to be dropped."""


class StepGraphs:
    """The graphs of one function over the same buffers. It holds no buffers itself: their owner must outlive it.

    `on_failure` is called when a capture has failed and no step will be captured any more.
    """

    def __init__(self, capture: GraphCapture, on_failure: Callable[[], None]):
        self._capture: GraphCapture | None = capture
        self._on_failure = on_failure
        self._warm: set[Hashable] = set()
        self._replays: dict[Hashable, Work] = {}

    def run(self, key: Hashable, work: Work) -> None:
        """Do `work`, which is the same for the same key.

        The first time it is run as it is, for a kernel has to have run once before it can be captured. The second time it is
        captured, and from then on replayed. If a capture fails, one warning says so, and everything is run as it is.
        """
        if key in self._replays:
            self._replays[key]()
        elif self._capture is None:
            work()
        elif key not in self._warm:
            self._capture.warm(work)
            self._warm.add(key)
        else:
            try:
                self._replays[key] = self._capture.capture(work)
            except Exception as error:  # whatever it is, the eager step does not need it
                first_line = (str(error).splitlines() or [""])[0]
                log.warning(
                    "the decode step could not be captured, going on without: %s: %s", type(error).__name__, first_line
                )
                self._capture = None
                self._on_failure()
                self._replays.clear()
                work()
            else:
                self._replays[key]()

    def clear(self) -> None:
        """Forget what was captured: some of its buffers are to be replaced."""
        if self._capture is not None:
            self._capture.forget()
        self._replays.clear()
        self._warm.clear()  # other shapes may want other kernels


class CudaCapture:
    """CUDA graphs that share a pool. Warm-up and capture use one stream of their own, so that cuBLAS finds its workspace there."""

    def __init__(self, device: torch.device):
        self._stream = torch.cuda.Stream(device)
        self._pool = torch.cuda.graph_pool_handle()

    def warm(self, work: Work) -> None:
        """Do the work on the capture's stream, between what the caller's stream has done and will do."""
        callers = torch.cuda.current_stream(self._stream.device)
        self._stream.wait_stream(callers)
        try:
            with torch.cuda.stream(self._stream):
                work()
        finally:
            callers.wait_stream(self._stream)

    def capture(self, work: Work) -> Work:
        """The work as a graph, to be launched on the caller's stream."""
        graph = torch.cuda.CUDAGraph()
        try:
            # The outer `stream` puts the caller's stream back, which `graph` leaves undone if it cannot end the capture.
            # thread_local: codec and text encoder go on allocating in their threads.
            with (
                _ONE_AT_A_TIME,
                torch.cuda.stream(self._stream),
                torch.cuda.graph(graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"),
            ):
                work()
        except torch.OutOfMemoryError:  # the capture was ended properly: its memory can be had back
            raise
        except BaseException:
            _BROKEN.append(graph)
            raise
        return graph.replay

    def forget(self) -> None:
        """Wait for the launched graphs, and take another pool: torch refuses one that no graph holds any more."""
        torch.cuda.current_stream(self._stream.device).synchronize()
        self._pool = torch.cuda.graph_pool_handle()


def find_graph_capture(device: torch.device) -> Callable[[], GraphCapture] | None:
    """What captures steps on a device, or None: there are graphs on CUDA alone, and none with `MUSICGEN_COMPILE=0`."""
    if device.type != "cuda" or os.environ.get("MUSICGEN_COMPILE", "1") == "0":
        return None
    return partial(CudaCapture, device)
