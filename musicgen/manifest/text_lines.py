"""The lines of a text file with the numbers that an editor shows, in bounded memory."""

import codecs
import io
from collections import deque
from typing import BinaryIO, cast

MAX_LINE = 16 << 20  # bytes
MAX_RECORD = 64 << 20  # characters of all lines of one record
_CHUNK = 1 << 18
_BOMS = {  # the longer ones first: the mark of UTF-32 begins with that of UTF-16
    codecs.BOM_UTF32_LE: "utf-32-le",
    codecs.BOM_UTF32_BE: "utf-32-be",
    codecs.BOM_UTF8: "utf-8",
    codecs.BOM_UTF16_LE: "utf-16-le",
    codecs.BOM_UTF16_BE: "utf-16-be",
}
_INVALID = "\udcff"  # becomes a byte that UTF-8 never has, so that the row is refused and no other

codecs.register_error("musicgen-mark-invalid", lambda error: (_INVALID, getattr(error, "end", 0)))


class LineTooLong(Exception):
    """A line of more than `MAX_LINE` bytes; its rest has been passed over."""


class RecordTooLong(Exception):
    """A record whose lines have more than `MAX_RECORD` characters."""


def decode_file(file: BinaryIO, encoding: str = "utf-8") -> BinaryIO:
    """Return the file as UTF-8 after its byte order mark, which counts more than `encoding`, with lines that end in LF.

    A file whose lines end in a bare CR (old Mac programs) is read as one with LF.
    """
    raw = cast(io.BufferedReader, file)
    start = raw.peek(_CHUNK)[:_CHUNK]
    for mark, marked_encoding in _BOMS.items():
        if start.startswith(mark):
            raw.read(len(mark))
            start, encoding = start[len(mark) :], marked_encoding
            break
    if encoding in ("utf-8", "ascii") and (b"\r" not in start or b"\n" in start):
        return raw
    return cast(BinaryIO, io.BufferedReader(_Recoded(raw, encoding), _CHUNK))


class _Recoded(io.RawIOBase):
    """A file in another encoding as UTF-8; bare CR become LF if the file begins without any LF."""

    def __init__(self, raw: io.BufferedReader, encoding: str):
        self._raw = raw
        self._decoder = codecs.getincrementaldecoder(encoding)("musicgen-mark-invalid")
        self._ready = b""
        self._ends_in_cr: bool | None = None

    def readable(self) -> bool:
        """See `io.RawIOBase`."""
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        """See `io.RawIOBase`."""
        while not self._ready:
            chunk = self._raw.read(_CHUNK)
            text = self._decoder.decode(chunk, final=not chunk)
            if self._ends_in_cr is None and text:
                self._ends_in_cr = "\r" in text and "\n" not in text
            if self._ends_in_cr:
                text = text.replace("\r", "\n")
            self._ready = text.encode("utf-8", "surrogateescape")
            if not chunk:
                break
        count = min(len(buffer), len(self._ready))
        buffer[:count] = self._ready[:count]
        self._ready = self._ready[count:]
        return count


class TextLines:
    """An iterator over lines with their ends, as text. Bytes that are not UTF-8 become surrogates.

    `number` is that of the last line that was given, from 1. The lines of a record can be given back, to be read again.
    """

    def __init__(self, raw: BinaryIO):
        self.raw = cast(io.BufferedReader, raw)
        self.number = 0
        self.bytes = 0  # since the caller set it to 0
        self.record: list[str] = []  # the lines since the caller emptied it
        self._record_size = 0
        self._given_back: deque[str] = deque()

    def __iter__(self) -> "TextLines":
        return self

    def __next__(self) -> str:
        if self._given_back:
            text = self._given_back.popleft()
        else:
            line = self.raw.readline(MAX_LINE + 1)
            if not line:
                raise StopIteration
            size = len(line)
            if size > MAX_LINE:
                self._pass_over(line)
            self.bytes += size
            text = line.decode("utf-8", "surrogateescape")
        self.number += 1
        record = self.record
        record.append(text)
        if len(record) > 1:
            self._check_size()
        return text

    def _check_size(self) -> None:
        """Raise `RecordTooLong` if the record's lines have too many characters."""
        if len(self.record) == 2:
            self._record_size = len(self.record[0])
        self._record_size += len(self.record[-1])
        if self._record_size > MAX_RECORD:
            raise RecordTooLong

    def give_back(self, kept: int = 1) -> int:
        """Give back the lines of the record but the first `kept` ones; returns how many characters these have."""
        lines = self.record[kept:]
        self._given_back.extendleft(reversed(lines))
        self.number -= len(lines)
        del self.record[kept:]
        return sum(map(len, lines))

    def skip_blank_lines(self) -> int:
        """Pass over the empty lines that follow, many at a time; returns how many."""
        before = self.number
        while self._given_back and not self._given_back[0].strip("\r\n"):
            self._given_back.popleft()
            self.number += 1
        if self._given_back:
            return self.number - before
        while start := self.raw.peek(1):
            blank = start[: len(start) - len(start.lstrip(b"\r\n"))]
            end = blank.rfind(b"\n") + 1
            if not end:
                break
            self.number += blank.count(b"\n", 0, end)
            self.raw.read(end)
        return self.number - before

    def _pass_over(self, line: bytes) -> None:
        """Read the rest of a line that is too long, and raise `LineTooLong`."""
        self.number += 1
        while line and not line.endswith(b"\n"):
            line = self.raw.readline(_CHUNK)
        self.record.append("")
        raise LineTooLong
