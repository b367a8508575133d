"""Finds the streams that follow one another in an Ogg file, and whether its last page is whole. Source: RFC 3533."""

import os
from dataclasses import dataclass
from typing import IO

from musicgen.audio.ogg import PAGE_HEADER_BYTES, mark_end_of_stream

_BEGINS_STREAM, _ENDS_STREAM = 2, 4  # flags of a page
_RESYNC_BYTES = 1 << 16  # a page is not longer
_MAX_STREAMS = 1000


@dataclass(frozen=True, slots=True)
class OggStream:
    """The bytes from `start` to `end` of a file, and `last_page`, are one stream with a mark at its end."""

    start: int
    end: int
    last_page: bytes


@dataclass(frozen=True, slots=True)
class OggExtent:
    """The streams that follow one another, and whether the last page of the file is cut."""

    streams: tuple[OggStream, ...]
    is_cut: bool


@dataclass(frozen=True, slots=True)
class _Page:
    start: int
    end: int
    flags: int


def measure_ogg(file: IO[bytes]) -> OggExtent:
    """Walk over the headers of all pages. What stands between pages or behind the last one is passed over."""
    file_size = file.seek(0, os.SEEK_END)
    streams: list[OggStream] = []
    first_page: _Page | None = None
    last_page: _Page | None = None
    position: int | None = 0
    while position is not None and position < file_size and len(streams) < _MAX_STREAMS:
        page = _read_page(file, position)
        if page is None:
            position = _find_page(file, position + 1)
            continue
        if page.end > file_size:
            break
        # Streams that lie side by side begin with one page each, those that follow one another with one after others.
        if first_page and last_page and page.flags & _BEGINS_STREAM and not last_page.flags & _BEGINS_STREAM:
            streams.append(_end_stream(file, first_page, last_page))
            first_page = page
        first_page, last_page, position = first_page or page, page, page.end
    if not first_page or not last_page:
        return OggExtent((OggStream(0, file_size, b""),), is_cut=False)
    is_cut = position is not None and position < file_size and len(streams) < _MAX_STREAMS
    return OggExtent((*streams, _end_stream(file, first_page, last_page)), is_cut)


def _read_page(file: IO[bytes], position: int) -> _Page | None:
    """Read a page's header. One that is cut itself gives a page without an end."""
    file.seek(position)
    header = file.read(PAGE_HEADER_BYTES)
    if header[:4] != b"OggS":
        return None
    segments = file.read(header[26]) if len(header) == PAGE_HEADER_BYTES else b""
    if len(header) < PAGE_HEADER_BYTES or len(segments) < header[26]:
        return _Page(position, 1 << 62, 0)
    return _Page(position, position + len(header) + len(segments) + sum(segments), header[5])


def _end_stream(file: IO[bytes], first_page: _Page, last_page: _Page) -> OggStream:
    if last_page.flags & _ENDS_STREAM:
        return OggStream(first_page.start, last_page.end, b"")
    file.seek(last_page.start)
    page = mark_end_of_stream(file.read(last_page.end - last_page.start))
    return OggStream(first_page.start, last_page.start, page)


def _find_page(file: IO[bytes], position: int) -> int | None:
    file.seek(position)
    offset = file.read(_RESYNC_BYTES).find(b"OggS")
    return None if offset < 0 else position + offset
