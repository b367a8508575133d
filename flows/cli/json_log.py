"""Writes stderr as JSON, one object a line, for `musicgen run --log-json`."""

import json
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TextIO, cast

from actors.messages import RunEvent
from musicgen.run_plan import format_time


class JsonLines:
    """A text stream that writes each line of text as a JSON object: `time`, `level`, `message`, `run`."""

    def __init__(self, stream: TextIO, run: str = ""):
        self.run = run
        self._stream = stream
        self._begun = threading.local()  # a line that a thread has not ended yet
        self._lock = threading.Lock()

    def over(self, stream: TextIO) -> "JsonLines":
        """Return the same on top of another stream."""
        return JsonLines(stream, self.run)

    def isatty(self) -> bool:
        """No progress bar is drawn here."""
        return False

    def write(self, text: str) -> int:
        """Write the lines that are complete now."""
        *lines, rest = (getattr(self._begun, "text", "") + text).split("\n")
        self._begun.text = rest
        for line in filter(str.strip, lines):
            self.write_object("error" if line.startswith("musicgen:") else "info", line)
        return len(text)

    def write_object(self, level: str, message: str, **values: object) -> None:
        """Write one object. Values that are None are left out."""
        document = {
            "time": format_time(datetime.now(UTC)),
            "level": level,
            "message": message,
            "run": self.run,
            **values,
        }
        line = json.dumps({name: value for name, value in document.items() if value is not None}, ensure_ascii=False)
        with self._lock:
            self._stream.write(line + "\n")
            self._stream.flush()

    def __getattr__(self, name: str) -> object:
        return getattr(self._stream, name)


_current: JsonLines | None = None  # below the stream that escapes what commands print


@contextmanager
def log_as_json(is_wanted: bool) -> Iterator[None]:
    """Write stderr as JSON inside the block, if that is wanted."""
    global _current
    if not is_wanted:
        yield
        return
    stderr, _current = sys.stderr, JsonLines(sys.stderr)
    sys.stderr = cast(TextIO, _current)
    try:
        yield
    finally:
        sys.stderr, _current = stderr, None


def name_run(run: str) -> None:
    """Name the run in the objects that follow."""
    if _current is not None:
        _current.run = run


def log_event(event: RunEvent) -> None:
    """Write an event of the run; only where stderr is JSON, because the progress bar says the same in counts."""
    if _current is not None:
        _current.write_object(event.level, event.message, shard=event.shard, actor=event.actor)
