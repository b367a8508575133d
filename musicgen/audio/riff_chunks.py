"""Measures wav files by their chunks. Source: RIFF/WAVE (Microsoft, 1991); RF64, EBU Tech 3306."""

import struct
from dataclasses import dataclass
from typing import IO

# Sizes from here on mean "unknown": programs that write to a pipe cannot go back and fill in the size.
_UNKNOWN_BYTES = 0x7FFF_0000
_MAX_CHUNKS = 1000  # before the samples
_TOLERATED_BYTES = 64  # missing: sizes that count the header, too, or a byte that fills up an odd chunk
_MAX_HEADER_BYTES = 1 << 20  # to be written anew


@dataclass(frozen=True, slots=True)
class WavExtent:
    """How to read a wav file: the bytes from `start` on, after `head`.

    `missing` is the size in bytes that the file would have with all samples of its header, and the size that it has, if
    samples are missing.
    """

    start: int = 0
    head: bytes = b""
    missing: tuple[int, int] | None = None


def measure_wav(file: IO[bytes], file_size: int) -> WavExtent:
    """Measure a wav file by the size of its samples.

    The size of the whole file in the header is not looked at, because many programs write a wrong one. Where a program
    ended before it wrote the size of the samples, which is 0 then, `head` has a header with the right one.
    """
    file.seek(0)
    mark, riff_size, _ = struct.unpack("<4sI4s", file.read(12).ljust(12, b"\0"))
    position, long_size = 12, 0
    for _ in range(_MAX_CHUNKS):
        file.seek(position)
        header = file.read(8)
        if len(header) < 8:
            break
        name, size = struct.unpack(">4sI" if mark == b"RIFX" else "<4sI", header)
        if name == b"ds64":  # of RF64: the sizes that do not fit into 32 bits
            long_size = struct.unpack("<QQ", file.read(16).ljust(16, b"\0"))[1]
        if name == b"data":
            present = file_size - position - 8
            if size == 0 < present and riff_size <= position and position < _MAX_HEADER_BYTES:
                return WavExtent(position + 8, _complete_header(file, position, present))
            announced = long_size if size == 0xFFFF_FFFF and long_size else size
            is_unknown = announced >= _UNKNOWN_BYTES and not long_size
            if is_unknown or announced <= present + _TOLERATED_BYTES:
                return WavExtent()
            return WavExtent(missing=(position + 8 + announced, file_size))
        position += 8 + size + size % 2
    return WavExtent()


def _complete_header(file: IO[bytes], position: int, present: int) -> bytes:
    """Return what stands before the samples, with their size in it."""
    file.seek(0)
    before = file.read(position)
    return before[:4] + struct.pack("<I", position + present) + before[8:] + b"data" + struct.pack("<I", present)
