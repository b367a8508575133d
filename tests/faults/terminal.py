"""A `musicgen` command as a process, with what it prints and how long it says nothing."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import IO


@dataclass(frozen=True)
class Line:
    """A line of stdout or stderr, and when it came."""

    at: float
    text: str


@dataclass
class Terminal:
    """A running command. Its output is read by threads; `lines` grows as it comes."""

    arguments: Sequence[str]
    process: subprocess.Popen[bytes]
    log: Path
    began: float
    lines: list[Line] = field(default_factory=list)
    ended: float | None = None
    paused: list[tuple[float, float]] = field(default_factory=list)  # while it was stopped by us
    _paused_at: float | None = None
    _readers: list[threading.Thread] = field(default_factory=list)

    @classmethod
    def start(cls, arguments: Sequence[str], env: Mapping[str, str], folder: Path, name: str) -> "Terminal":
        """Start `musicgen` with these arguments in `folder`, and keep its output in `folder/name.log`."""
        folder.mkdir(parents=True, exist_ok=True)
        process = subprocess.Popen(
            [sys.executable, "-m", "musicgen", *arguments],
            cwd=folder,
            env=dict(env),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        terminal = cls(arguments, process, folder / f"{name}.log", time.monotonic())
        assert process.stdout is not None
        assert process.stderr is not None
        for stream in (process.stdout, process.stderr):
            reader = threading.Thread(target=terminal._read, args=(stream,), daemon=True)
            reader.start()
            terminal._readers.append(reader)
        return terminal

    def _read(self, stream: IO[bytes]) -> None:
        for raw in stream:
            line = Line(time.monotonic(), raw.decode(errors="replace").rstrip())
            self.lines.append(line)
            with self.log.open("a") as file:
                file.write(f"{line.at - self.began:7.1f} {line.text}\n")

    @property
    def runs(self) -> bool:
        """Whether the process lives; the moment of its end is noted."""
        if self.process.poll() is None:
            return True
        if self.ended is None:
            self.ended = time.monotonic()
            for reader in self._readers:
                reader.join(5)
        return False

    def has_printed(self, text: str) -> bool:
        """Whether a line holds this text."""
        return any(text in line.text for line in list(self.lines))

    def pause(self) -> None:
        """Stop the process (SIGSTOP); this time does not count as silence."""
        self._paused_at = time.monotonic()
        self._send(signal.SIGSTOP)

    def go_on(self) -> None:
        """Continue it."""
        self._send(signal.SIGCONT)
        if self._paused_at is not None:
            self.paused.append((self._paused_at, time.monotonic()))
            self._paused_at = None

    def end(self, number: signal.Signals, patience_s: float = 15.0) -> None:
        """Send a signal; whatever does not end within `patience_s` is killed."""
        self.go_on()
        self._send(number)
        try:
            self.process.wait(patience_s)
        except subprocess.TimeoutExpired:
            self._send(signal.SIGKILL)
            self.process.wait()

    def _send(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):
            os.kill(self.process.pid, number)

    def longest_silence(self) -> tuple[float, str]:
        """The longest time without a line, less the times in which it was stopped, and where that was.

        It counts from the start to the end of the process. The text is the log's name and the last line before.
        """
        end = self.ended if self.ended is not None else time.monotonic()
        lines = [Line(self.began, "its start"), *sorted(self.lines, key=lambda line: line.at), Line(end, "its end")]
        gaps = [
            (after.at - before.at - self._paused_within(before.at, after.at), f"{self.log.stem}: {before.text}")
            for before, after in pairwise(lines)
        ]
        return max(gaps)

    def _paused_within(self, start: float, end: float) -> float:
        return sum(max(0.0, min(end, until) - max(start, since)) for since, until in self.paused)

    def tracebacks(self) -> int:
        """How many tracebacks it printed."""
        return sum("Traceback (most recent call last)" in line.text for line in self.lines)
