"""Is anybody else using this machine? A figure taken beside other work is worth nothing.

CPU time is compared over an interval: what the whole machine spent (steal included), less what our own tree of
processes spent. Both are cumulative counters, so nothing is lost between samples.
"""

import os
import threading
import time
from contextlib import suppress
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


def _read(family: "_Family | None" = None) -> _Reading:
    times = psutil.cpu_times()
    busy = (
        times.user + times.nice + times.system + sum(getattr(times, name, 0.0) for name in ("irq", "softirq", "steal"))
    )
    return _Reading(time.perf_counter(), busy, (family or _Family()).seconds())


@dataclass
class _Member:
    process: psutil.Process
    parent: int | None  # pid
    own_s: float = 0.0
    waited_s: float = 0.0  # of descendants that it waited for
    unseen_s: float = 0.0  # of those among them that were never seen
    alive: bool = True


class _Family:
    """CPU seconds of this process and all its descendants, dead ones too.

    A parent's counters take over those of a child that it waits for; Ray's are killed, and nobody waits for them. So
    what was last seen of a process is kept, and a parent's counters tell of those that came and went between two looks.
    """

    def __init__(self) -> None:
        self._members: dict[int, _Member] = {}

    def seconds(self) -> float:
        """Until now."""
        root = psutil.Process()
        for process in [root, *root.children(recursive=True)]:
            with suppress(psutil.Error):
                known = self._members.get(process.pid)
                if known is None or known.process != process:
                    self._members[process.pid] = _Member(process, None if process.pid == root.pid else process.ppid())
        gone: dict[int | None, float] = {}  # parent -> what it took over of children that were seen
        more: list[tuple[_Member, float]] = []
        for member in self._members.values():
            try:
                spent = member.process.cpu_times()
            except psutil.Error:
                if member.alive:
                    member.alive = False
                    gone[member.parent] = gone.get(member.parent, 0.0) + member.own_s + member.waited_s
                continue
            waited_s = spent.children_user + spent.children_system
            more.append((member, waited_s - member.waited_s))
            member.own_s, member.waited_s = spent.user + spent.system, waited_s
        for member, waited_s in more:
            member.unseen_s += max(0.0, waited_s - gone.get(member.process.pid, 0.0))
        return sum(member.own_s + member.unseen_s for member in self._members.values())


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

    interval_s: float = 2.0
    mean_cores: float = 0.0
    peak_cores: float = 0.0
    _family: _Family = field(default_factory=_Family)
    _stop: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def __enter__(self) -> "LoadWatch":
        self._first = self._last = _read(self._family)
        self._thread = threading.Thread(target=self._watch, name="load-watch", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        if self._thread:
            self._thread.join()
        self.mean_cores = _read(self._family).others_since(self._first)
        self.peak_cores = max(self.peak_cores, self.mean_cores)

    def _watch(self) -> None:
        while not self._stop.wait(self.interval_s):
            now = _read(self._family)
            self.peak_cores = max(self.peak_cores, now.others_since(self._last))
            self._last = now
