"""Runs a job under its schedule of faults, runs it again until it is complete, and measures what a user sees."""

import os
import random
import re
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.faults.bench import Bench
from tests.faults.injectors import make_injector
from tests.faults.jobs import BUCKET, make_arguments
from tests.faults.judge import Outcome, Verdict, judge_outcome, read_outcome
from tests.faults.scene import Injector, Scene
from tests.faults.schedule import Event, Moment, Schedule
from tests.faults.small_disk import SmallDisk
from tests.faults.terminal import Terminal

SILENCE_LIMIT_S = 30.0
_COMPLETE = (0, 3)  # exit codes
_TICK_S = 0.05
_PHASES = {  # what the proxy sees when a phase begins
    "planned": r"PUT .*/plan\.json",
    "loading": r"PUT .*/drivers/",
    "committed": r"PUT .*/index/.*\.parquet",
    "publishing": r"PUT .*/README",
}


@dataclass(frozen=True)
class Limits:
    """How long a command may run on when the faults have ended, and how often the job is run again."""

    hang_s: float = 300.0
    reruns: int = 4


@dataclass
class Result:
    """What came of a schedule."""

    schedule: Schedule
    verdict: Verdict
    hits: dict[str, int] = field(default_factory=dict)  # kind -> what it has hit; 0: its moment never came
    exits: list[tuple[str, int]] = field(default_factory=list)  # command, exit code
    silence_s: float = 0.0
    silent_after: str = ""  # the command and its last line before that
    load: float = 0.0  # the machine's load average then, at its highest; two cores
    tracebacks: int = 0
    hung: list[str] = field(default_factory=list)  # commands that had to be ended
    orphans: int = 0  # actors that outlived their node
    complete: bool = False  # the job ended with 0 or 3
    recovery_s: float = 0.0  # from the end of the faults to the end of the job
    seconds: float = 0.0

    @property
    def troubles(self) -> list[str]:
        """Each thing that must not be, in words; empty if all is well."""
        verdict = self.verdict
        rows = {name: getattr(verdict, name) for name in ("lost", "twice", "blamed", "changed", "unsound")}
        found = [f"{name}: {', '.join(values[:4])}" for name, values in rows.items() if values]
        if self.silence_s > SILENCE_LIMIT_S:
            found.append(f"silent for {self.silence_s:.0f} s")
        found += [f"hung: {name}" for name in self.hung]
        if self.tracebacks:
            found.append(f"{self.tracebacks} tracebacks")
        if self.orphans:
            found.append(f"{self.orphans} orphaned actors")
        if not self.complete:
            found.append(f"not complete: exits {[code for _, code in self.exits]}")
        return found


@dataclass
class _Pending:
    """An event of the running schedule."""

    event: Event
    injector: Injector
    due: float | None = None  # when its moment comes, once that is known
    ends: float | None = None  # when it is over, once it has begun
    over: bool = False


class Trial:
    """One schedule on a bench. `name` is unique; it names the dataset and the logs."""

    def __init__(self, bench: Bench, schedule: Schedule, name: str, limits: Limits | None = None):
        self._bench, self._schedule, self._limits = bench, schedule, limits or Limits()
        self._folder = bench.folder / "trials" / name
        shutil.rmtree(self._folder, ignore_errors=True)
        self._disk = SmallDisk(self._folder / "disk") if schedule.on_small_disk else None
        self._output = str(self._folder / "disk" / "set") if self._disk else f"s3://{BUCKET}/sets/{name}"
        self._commands: list[Terminal] = []
        self._last: dict[bool, Terminal] = {}  # of the job that supersedes, and of the job itself
        self.result = Result(schedule, Verdict())

    def run(self, calm: Outcome | None) -> tuple[Result, Outcome]:
        """Run it to its end, and compare with the calm outcome, if there is one."""
        began = time.monotonic()
        self._bench.mend()
        self._bench.requests.clear()
        try:
            self._meet_faults()
            self._bench.mend()
            self.result.recovery_s = self._complete_job(time.monotonic())
            self._measure()
            with store_environment(self._bench):
                outcome = read_outcome(self._output)
        finally:
            for command in self._commands:
                if command.runs:
                    command.end(signal.SIGKILL)
            if self._disk is not None:
                self._disk.close()
        if calm is not None:
            self.result.verdict = judge_outcome(outcome, calm)
        self.result.seconds = time.monotonic() - began
        return self.result, outcome

    # ------------------------------------------------------------ the faults

    def _start(self, supersede: bool = False) -> Terminal:
        arguments = make_arguments(self._schedule, self._output, supersede)
        name = f"run-{len(self._commands)}"
        command = self._bench.start_musicgen(arguments, self._folder, name, self._schedule.records)
        self._commands.append(command)
        self._last[supersede] = command
        return command

    def _meet_faults(self) -> None:
        """Start the job, make each fault at its moment, and wait until both have ended."""
        rng = random.Random(self._schedule.name)
        scene = Scene(self._bench, self._start(), self._start, rng)
        pending = [_Pending(event, make_injector(event)) for event in self._schedule.events]
        changed_at = time.monotonic()
        while True:
            running = [command for command in self._commands if command.runs]
            if not running:  # the events that have not come by now never will
                pending = [item for item in pending if item.ends is not None]
            changed_at = time.monotonic() if self._advance(pending, scene) else changed_at
            self._note_load()
            if all(item.over for item in pending) and not running:
                break
            if time.monotonic() - changed_at > self._limits.hang_s:
                self._end_hung()
            time.sleep(_TICK_S)
        self.result.hits = dict.fromkeys(self._schedule.kinds, 0)
        self.result.hits |= {item.event.kind: item.injector.hits for item in pending}
        if "superseding_job" in self.result.hits:  # it has hit where there was a run that it had to close
            closing = re.compile(r"PUT .*/superseded\.json")
            self.result.hits["superseding_job"] = sum(bool(closing.match(line)) for line in self._bench.requests)
        if "small_disk" in self.result.hits:
            self.result.hits["small_disk"] = int(scene.driver.has_printed("No space left"))

    def _advance(self, pending: list[_Pending], scene: Scene) -> bool:
        """Begin and end what is due. Returns whether anything happened."""
        happened = False
        for item in pending:
            now = time.monotonic()
            if item.due is None and self._has_come(item.event.moment):
                item.due = now + item.event.moment.delay_s
            if item.due is not None and item.ends is None and now >= item.due and item.injector.begin(scene):
                item.ends, happened = now + item.event.seconds, True
            if item.ends is not None and not item.over and now >= item.ends:
                item.injector.end(scene)
                item.over = happened = True
        return happened

    def _has_come(self, moment: Moment) -> bool:
        if moment.phase == "start":
            return True
        pattern = re.compile(_PHASES[moment.phase])
        return sum(bool(pattern.match(line)) for line in list(self._bench.requests)) >= max(1, moment.commits)

    def _end_hung(self) -> None:
        for command in self._commands:
            if command.runs:
                self.result.hung.append(command.log.stem)
                command.end(signal.SIGTERM)

    # ------------------------------------------------------------ afterwards

    def _complete_job(self, since: float) -> float:
        """Run each job again until it is complete, as its user would. Returns the seconds that took."""
        if self._disk is not None:
            self._disk.grow()
        for supersede in sorted(self._last, reverse=True):
            for _ in range(self._limits.reruns):
                if self._is_complete(supersede):
                    break
                self._wait_for(self._start(supersede))
        self.result.complete = all(self._is_complete(supersede) for supersede in self._last)
        return time.monotonic() - since

    def _is_complete(self, supersede: bool) -> bool:
        return self._last[supersede].process.poll() in _COMPLETE

    def _wait_for(self, command: Terminal) -> None:
        deadline = time.monotonic() + self._limits.hang_s
        while command.runs:
            if time.monotonic() > deadline:
                self._end_hung()
            self._note_load()
            time.sleep(_TICK_S)

    def _note_load(self) -> None:
        self.result.load = max(self.result.load, os.getloadavg()[0])

    def _measure(self) -> None:
        """Note what the commands printed, and which actors outlived their node."""
        result = self.result
        result.exits = [(command.log.stem, command.process.returncode) for command in self._commands]
        result.silence_s, result.silent_after = max(command.longest_silence() for command in self._commands)
        result.tracebacks = sum(command.tracebacks() for command in self._commands)
        time.sleep(1)
        orphans = [actor for actor in self._bench.ray.find_actors() if actor.ppid() not in self._bench.ray.raylets]
        result.orphans = len(orphans)
        for orphan in orphans:
            orphan.kill()


@contextmanager
def store_environment(bench: Bench) -> Iterator[None]:
    """Point this process at the store, around the proxy."""
    before = dict(os.environ)
    os.environ.update(bench.store_env(through_proxy=False))
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def logs_of(folder: Path) -> str:
    """What the commands of a trial printed, for a message."""
    return "\n".join(f"--- {log.name}\n{log.read_text()[-3000:]}" for log in sorted(folder.glob("run-*.log")))
