"""Escapes control characters of what a command prints: names and cells of a manifest may hold a terminal's commands."""

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO, cast

# All but tab and newline, and the characters that change the direction of text.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")

_RESET = "\x1b[0m"  # what colorama, which Ray brings, writes by itself to a terminal when the process ends


class EscapingStream:
    """A text stream that writes control characters as Python would quote them."""

    def __init__(self, stream: TextIO):
        self._stream = stream

    def write(self, text: str) -> int:
        """Write the text with its control characters escaped."""
        if text != _RESET:
            self._stream.write(escape_controls(text))
        return len(text)

    def __getattr__(self, name: str) -> object:
        return getattr(self._stream, name)


@contextmanager
def escape_output() -> Iterator[None]:
    """Escape what is printed to stdout and stderr inside the block; the progress bar writes to the terminal itself."""
    streams = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (cast(TextIO, EscapingStream(stream)) for stream in streams)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = streams


def escape_controls(text: str) -> str:
    """Return the text with control characters but tab and newline escaped, such as `\\x1b`.

    JSON holds none below U+007F as they are; the others are written as JSON escapes them.
    """
    return _CONTROL.sub(_escape, text)


def _escape(match: re.Match[str]) -> str:
    code = ord(match.group())
    return f"\\x{code:02x}" if code < 0x7F else f"\\u{code:04x}"
