"""An object of a bucket as a seekable file."""

import io
from collections.abc import Callable


class S3File(io.RawIOBase):
    """Reads an object of `size` bytes by `read_range(start, length)`. To be wrapped in an `io.BufferedReader`."""

    def __init__(self, name: str, size: int, read_range: Callable[[int, int], bytes]):
        super().__init__()
        self.name = name
        self._size = size
        self._read_range = read_range
        self._position = 0

    def readable(self) -> bool:
        """See `io.RawIOBase`."""
        return True

    def seekable(self) -> bool:
        """See `io.RawIOBase`."""
        return True

    def tell(self) -> int:
        """See `io.RawIOBase`."""
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """See `io.RawIOBase`."""
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        if start + offset < 0:
            raise ValueError(f"{self.name}: cannot seek to {start + offset}")
        self._position = start + offset
        return self._position

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        """See `io.RawIOBase`. Raises as `Store.read` does."""
        length = min(len(buffer), self._size - self._position)
        if length <= 0:
            return 0
        received = self._read_range(self._position, length)
        buffer[: len(received)] = received
        self._position += len(received)
        return len(received)
