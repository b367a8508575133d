"""The one random thing in an audio file: Ogg's stream serial number, which libsndfile draws from the clock.

Page layout and checksum: RFC 3533, section 6 (CRC-32 with polynomial 0x04c11db7, no reflection, zero start and end).
"""

import struct
import zlib

_HEADER = struct.Struct("<4sBBqIIIB")  # OggS, version, type, granule position, serial, sequence, checksum, segments
_SERIAL_AT, _CHECKSUM_AT = 14, 22
_REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


def set_stream_serial(data: bytes, serial: int) -> bytes:
    """The same Ogg stream under another serial number, its checksums made right.

    Raises `ValueError` if the bytes are not a sequence of Ogg pages.
    """
    out = bytearray(data)
    start = 0
    while start < len(out):
        if len(out) - start < _HEADER.size or out[start : start + 4] != b"OggS":
            raise ValueError(f"no Ogg page at byte {start}")
        segments = out[start + 26]
        body = start + _HEADER.size + segments
        end = body + sum(out[start + _HEADER.size : body])
        struct.pack_into("<I", out, start + _SERIAL_AT, serial)
        struct.pack_into("<I", out, start + _CHECKSUM_AT, 0)
        struct.pack_into("<I", out, start + _CHECKSUM_AT, _crc(out[start:end]))
        start = end
    return bytes(out)


def _crc(page: bytes | bytearray) -> int:
    """Ogg's CRC by way of zlib's: the same polynomial, but with the bits of each byte, and the result, the other way
    round.
    """
    mirrored = zlib.crc32(page.translate(_REVERSED), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int(f"{mirrored:032b}"[::-1], 2)
