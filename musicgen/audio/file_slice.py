"""A part of an audio file as a file of its own, for decoders that stumble over what stands before or behind it."""

import io
import os
from typing import IO


class FileSlice(io.RawIOBase):
    """Reads `head`, the bytes from `start` to `end` of another file, and `tail`. Closing it leaves that file open."""

    def __init__(self, file: IO[bytes], start: int, end: int, head: bytes = b"", tail: bytes = b""):
        self._file, self._start, self._head, self._tail = file, start, head, tail
        self._tail_start = len(head) + max(0, end - start)
        self._size = self._tail_start + len(tail)
        self._position = 0

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def tell(self) -> int:
        """Return the position from the beginning of the slice."""
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move to a position of the slice."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        self._position = max(0, base + offset)
        return self._position

    def read(self, size: int = -1) -> bytes:
        """Read up to `size` bytes; all that are left if it is negative."""
        left = max(0, self._size - self._position)
        size = left if size is None or size < 0 else min(size, left)
        position, end = self._position, self._position + size
        content = self._head[position:end]
        from_file = min(end, self._tail_start) - (position + len(content))
        if from_file > 0:
            self._file.seek(self._start + position + len(content) - len(self._head))
            content += self._file.read(from_file)
        if len(content) < size:
            tail_position = position + len(content) - self._tail_start
            content += self._tail[max(0, tail_position) : max(0, end - self._tail_start)]
        self._position += len(content)
        return content

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        """Read bytes into a buffer, and return how many they are."""
        content = self.read(len(buffer))
        buffer[: len(content)] = content
        return len(content)
