"""Is anybody else using this machine? A figure taken beside other work is worth nothing.

CPU time is compared over an interval: what the whole machine spent (steal included), less what our own tree of
processes spent. Both are cumulative counters, so nothing is lost between samples.
"""

import os
import threading
import time
from dataclasses import dataclass, field

import psutil

QUIET_CORES = 0.15  # of other work, on average over a measurement


@dataclass(frozen=True)
class _Reading:
    wall_s: float
    machine_s: float
    ours_s: float

    def others_since(self, before: "_Reading") -> float:
        """Cores that others used on average since `before`."""
        wall = max(self.wall_s - before.wall_s, 1e-3)
        return max(0.0, ((self.machine_s - before.machine_s) - (self.ours_s - before.ours_s)) / wall)


def _read() -> _Reading:
    times = psutil.cpu_times()
    busy = times.user + times.nice + times.system + sum(getattr(times, name, 0.0) for name in ("irq", "softirq", "steal"))
    return _Reading(time.perf_counter(), busy, _tree_s(os.getpid()))


def _tree_s(root: int) -> float:
    """CPU seconds of a process, its living descendants, and all descendants that were waited for."""
    total = 0.0
    process = psutil.Process(root)
    for one in [process, *process.children(recursive=True)]:
        try:
            spent = one.cpu_times()
        except psutil.Error:  # gone meanwhile: its parent has its times now, or will at the next reading
            continue
        total += spent.user + spent.system + spent.children_user + spent.children_system
    return total


def others_cores(seconds: float = 2.0) -> float:
    """Cores that other work uses now, measured over `seconds`."""
    before = _read()
    time.sleep(seconds)
    return _read().others_since(before)


def busiest(seconds: float = 1.0, count: int = 3) -> str:
    """Who it is: the busiest processes that are not ours, for the message."""
    own = {os.getpid(), *(child.pid for child in psutil.Process().children(recursive=True))}
    seen = [process for process in psutil.process_iter(["name", "cmdline"]) if process.pid not in own]
    for process in seen:
        _percent(process)
    time.sleep(seconds)
    loads = sorted(((_percent(process), process) for process in seen), key=lambda pair: -pair[0])[:count]
    return (
        ", ".join(f"{process.info['name']} (pid {process.pid}) {load:.0f} %" for load, process in loads if load > 2)
        or "nobody visible here"
    )


def _percent(process: psutil.Process) -> float:
    try:
        return process.cpu_percent()
    except psutil.Error:
        return 0.0


def wait_for_quiet(patience_s: float, limit: float = QUIET_CORES) -> float:
    """Wait until other work is below `limit` cores, at most `patience_s`. Returns the last measurement."""
    deadline = time.monotonic() + patience_s
    while (now := others_cores()) > limit and time.monotonic() < deadline:
        time.sleep(3)
    return now


@dataclass
class LoadWatch:
    """Watches others during a `with` block: `mean_cores` over all of it, `peak_cores` over its worst window."""

    interval_s: float = 5.0
    mean_cores: float = 0.0
    peak_cores: float = 0.0
    _stop: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def __enter__(self) -> "LoadWatch":
        self._first = self._last = _read()
        self._thread = threading.Thread(target=self._watch, name="load-watch", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        if self._thread:
            self._thread.join()
        self.mean_cores = _read().others_since(self._first)
        self.peak_cores = max(self.peak_cores, self.mean_cores)

    def _watch(self) -> None:
        while not self._stop.wait(self.interval_s):
            now = _read()
            self.peak_cores = max(self.peak_cores, now.others_since(self._last))
            self._last = now
