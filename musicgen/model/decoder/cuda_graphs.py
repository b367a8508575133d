"""CUDA graphs of the decode step: one launch for its thousands of small kernels, which the host could not launch fast
enough.

A captured step reads and writes exactly the memory that it was captured with. So whatever changes from step to step
lies in buffers that are filled in place, and whatever the host decides (without Triton: how many blocks of the cache
are read, and whether a clip needs a sort) is part of the graph's key. There is one graph per key, captured when it is
first needed; all share one pool of memory, since no two run at once. The kernels are those of the eager step, and so
are the bits.

`CudaCapture` follows torch's notes on CUDA graphs and was never run: no GPU was at hand. The rest is tested on a CPU,
with a recorder in its place.
"""

import logging
import os
import threading
from collections.abc import Callable, Hashable
from functools import partial
from typing import Protocol

import torch

from musicgen.errors import first_line
from musicgen.model.memory_errors import is_out_of_memory

log = logging.getLogger(__name__)

Work = Callable[[], None]

_CAPTURE_LOCK = threading.Lock()  # one capture at a time in a process
_FAILED_GRAPHS: list[torch.cuda.CUDAGraph] = []  # kept forever, because torch's allocator may still ask them


class GraphCapture(Protocol):
    """Turns work into a callable that repeats it in the same memory.

    The work must not read anything back to the host.
    """

    def warm(self, work: Work) -> None:
        """Run the work as a capture would run it."""

    def capture(self, work: Work) -> Work:
        """Record the work without running it, and return a callable that runs it. Raises whatever goes wrong."""

    def forget(self) -> None:
        """Prepare for all captured work to be dropped."""


class StepGraphs:
    """The graphs of one function over the same buffers. It holds no buffers itself: their owner must outlive it."""

    def __init__(self, capture: GraphCapture):
        self._capture = capture
        self._warm: set[Hashable] = set()
        self._replays: dict[Hashable, Work] = {}
        self._failed: set[Hashable] = set()  # keys whose capture failed

    @property
    def active(self) -> bool:
        """Whether steps are captured: not if captures have failed and none has succeeded."""
        return bool(self._replays) or not self._failed

    def run(self, key: Hashable, work: Work) -> None:
        """Do `work`, which must be the same for the same key.

        The first call runs it as it is, because a kernel must have run once before it can be captured. The second call
        captures it, and later calls replay the graph. If a capture fails, work of that key runs as it is from then on,
        and the first time a warning is logged; other keys keep their graphs. A capture that runs out of memory raises,
        because fewer slots may be captured.
        """
        if key in self._replays:
            self._replays[key]()
        elif key in self._failed:
            work()
        elif key not in self._warm:
            self._capture.warm(work)
            self._warm.add(key)
        else:
            try:
                self._replays[key] = self._capture.capture(work)
            except Exception as error:  # whatever else it is, the eager step does not need it
                if is_out_of_memory(error):
                    raise
                if not self._failed:
                    log.warning(
                        "a decode step could not be captured, going on without: %s: %s",
                        type(error).__name__,
                        first_line(error),
                    )
                self._failed.add(key)
                work()
            else:
                self._replays[key]()

    def clear(self) -> None:
        """Drop all graphs, because some of their buffers are about to be replaced."""
        self._capture.forget()
        self._replays.clear()
        self._warm.clear()  # other shapes may want other kernels


class CudaCapture:
    """CUDA graphs that share a pool.

    Warm-up and capture run on one stream of their own, for which cuBLAS has a workspace.
    """

    def __init__(self, device: torch.device):
        # The kernels of a graph keep the priority of the stream that captured them: codec and text encoder, whose
        # streams have the usual one, fill what the steps leave free.
        self._stream = torch.cuda.Stream(device, priority=-1)
        self._pool = torch.cuda.graph_pool_handle()

    def warm(self, work: Work) -> None:
        """Run the work on the capture's stream, ordered after the caller's earlier work and before its later work."""
        callers = torch.cuda.current_stream(self._stream.device)
        self._stream.wait_stream(callers)
        try:
            with torch.cuda.stream(self._stream):
                work()
        finally:
            callers.wait_stream(self._stream)

    def capture(self, work: Work) -> Work:
        """Record the work as a graph, which is launched on the stream of whoever calls the result."""
        graph = torch.cuda.CUDAGraph()
        try:
            # The outer `stream` restores the caller's stream, which `graph` does not if it cannot end the capture.
            # thread_local: the codec and the text encoder allocate in their own threads meanwhile.
            with (
                _CAPTURE_LOCK,
                torch.cuda.stream(self._stream),
                torch.cuda.graph(graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"),
            ):
                work()
        except torch.OutOfMemoryError:  # the capture was ended properly, so its memory can be freed
            raise
        except BaseException:
            _FAILED_GRAPHS.append(graph)
            raise
        return graph.replay

    def forget(self) -> None:
        """Wait for launched graphs, and take a new pool: torch refuses a pool that no graph holds any more."""
        torch.cuda.current_stream(self._stream.device).synchronize()
        self._pool = torch.cuda.graph_pool_handle()


def find_graph_capture(device: torch.device) -> Callable[[], GraphCapture] | None:
    """A factory of captures for a device, or None: graphs exist on CUDA alone, and not with `MUSICGEN_COMPILE=0`."""
    if device.type != "cuda" or os.environ.get("MUSICGEN_COMPILE", "1") == "0":
        return None
    return partial(CudaCapture, device)
