"""Replaces the serial number of an Ogg stream, so that equal waveforms give equal files.

libsndfile draws that number from the clock. Here it comes from the stream's content, because streams that are joined to
one file must have different numbers. Page layout and checksum: RFC 3533, section 6 (CRC-32 with polynomial
0x04c11db7, no reflection, initial and final value zero).
"""

import hashlib
import struct
import zlib

_PAGE_HEADER = struct.Struct(
    "<4sBBqIIIB"
)  # OggS, version, type, granule position, serial, sequence, checksum, segments
PAGE_HEADER_BYTES = _PAGE_HEADER.size
_FLAGS_OFFSET, _SERIAL_OFFSET, _CHECKSUM_OFFSET = 5, 14, 22
_ENDS_STREAM = 4
_REVERSED_BITS = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


def make_serial_reproducible(stream: bytes) -> bytes:
    """Return the Ogg stream with a serial number from 1 to 2^31 - 1 that is a hash of the rest of the stream."""
    stream = set_stream_serial(stream, 0)
    serial = int.from_bytes(hashlib.sha256(stream).digest()[:4], "big") % 0x7FFF_FFFF + 1
    return set_stream_serial(stream, serial)


def set_stream_serial(stream: bytes, serial: int) -> bytes:
    """Return the Ogg stream with another serial number and the checksums that belong to it.

    Raises `ValueError` if the bytes are not a sequence of Ogg pages.
    """
    pages = bytearray(stream)
    page_start = 0
    while page_start < len(pages):
        if len(pages) - page_start < _PAGE_HEADER.size or pages[page_start : page_start + 4] != b"OggS":
            raise ValueError(f"no Ogg page at byte {page_start}")
        segment_count = pages[page_start + 26]
        body_start = page_start + _PAGE_HEADER.size + segment_count
        page_end = body_start + sum(pages[page_start + _PAGE_HEADER.size : body_start])
        struct.pack_into("<I", pages, page_start + _SERIAL_OFFSET, serial)
        struct.pack_into("<I", pages, page_start + _CHECKSUM_OFFSET, 0)
        struct.pack_into("<I", pages, page_start + _CHECKSUM_OFFSET, _ogg_checksum(pages[page_start:page_end]))
        page_start = page_end
    return bytes(pages)


def mark_end_of_stream(page: bytes) -> bytes:
    """Return an Ogg page with the flag of a stream's last page, and the checksum that belongs to it."""
    marked = bytearray(page)
    marked[_FLAGS_OFFSET] |= _ENDS_STREAM
    struct.pack_into("<I", marked, _CHECKSUM_OFFSET, 0)
    struct.pack_into("<I", marked, _CHECKSUM_OFFSET, _ogg_checksum(marked))
    return bytes(marked)


def _ogg_checksum(page: bytes | bytearray) -> int:
    """Compute Ogg's CRC with zlib, which has the same polynomial but reverses the bits of bytes and result."""
    mirrored = zlib.crc32(page.translate(_REVERSED_BITS), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int(f"{mirrored:032b}"[::-1], 2)
