"""What an audio file's container says before anything is decoded: its kind, and whether its end is missing.

libsndfile decodes a truncated wav or mp3 without complaint, as a shorter one; and mpg123 writes its warnings to the
process's stderr. So both are looked at here first. Sources: RIFF/WAVE (Microsoft, 1991); MPEG-1 audio, ISO/IEC 11172-3
section 2.4.2.3 (frame headers), MPEG-2 13818-3; the Xing/Info header as LAME writes it; ID3v2.4 section 3.1.
"""

import os
import struct
from dataclasses import dataclass
from typing import IO, Literal, NamedTuple

Kind = Literal["wav", "flac", "mp3", "ogg"]

# Sizes from here on are what programs write that cannot seek back in a pipe: "unknown".
_RIFF_UNKNOWN = 0x7FFF_0000

_BITRATES_KBPS = {  # (MPEG-1?, layer) -> by index
    (True, 1): (0, 32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (True, 2): (0, 32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (True, 3): (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (False, 1): (0, 32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (False, 2): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (False, 3): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_MAX_FRAMES = 300_000  # two hours; longer files are refused for their length
_RATES_HZ = {3: (44100, 48000, 32000), 2: (22050, 24000, 16000), 0: (11025, 12000, 8000)}


def detect_kind(file: IO[bytes]) -> Kind | None:
    """The kind of audio file by its first bytes; None for anything else (text, pictures, archives ...)."""
    file.seek(0)
    head = file.read(12)
    if head[:4] == b"RIFF" and head[8:12] == b"WAVE":
        return "wav"
    if head[:4] == b"fLaC":
        return "flac"
    if head[:4] == b"OggS":
        return "ogg"
    start = _after_id3(file)
    file.seek(start)
    head = file.read(4)
    if head == b"fLaC":
        return "flac"
    frame = _mpeg_frame(head)
    if frame is None:
        return None
    if start == 0:  # two bytes of text can look like a frame: another one must follow, or the end
        file.seek(frame.size)
        head = file.read(4)
        if len(head) == 4 and _mpeg_frame(head) is None:
            return None
    return "mp3"


@dataclass(frozen=True, slots=True)
class Extent:
    """How long a file is by its container: `cut_short` says why its end is known to be missing, if it is.

    `seconds` is None where the container does not tell, or where libsndfile knows better.
    """

    seconds: float | None = None
    cut_short: str | None = None


def measure_extent(file: IO[bytes], kind: Kind) -> Extent:
    """The extent of a file of this kind. Reads headers only."""
    file.seek(0, os.SEEK_END)
    size = file.tell()
    if kind == "mp3":
        return _measure_mp3(file, size)
    if kind == "wav":
        file.seek(4)
        announced = struct.unpack("<I", file.read(4))[0] + 8
        if size < announced < _RIFF_UNKNOWN:
            return Extent(cut_short=_missing(announced, size))
    return Extent()


def _measure_mp3(file: IO[bytes], size: int) -> Extent:
    start = position = _after_id3(file)
    file.seek(start)
    first = file.read(256)
    frame = _mpeg_frame(first)
    if frame is None:
        return Extent()
    for mark in (b"Xing", b"Info"):
        at = first.find(mark)
        if at < 0 or len(first) < at + 16:
            continue
        flags, field, frames = struct.unpack(">I", first[at + 4 : at + 8])[0], at + 8, 0
        if flags & 1:
            frames, field = struct.unpack(">I", first[field : field + 4])[0], field + 4
        if flags & 2:  # the stream's size in bytes
            announced = start + struct.unpack(">I", first[field : field + 4])[0]
            if announced > size:
                return Extent(cut_short=_missing(announced, size))
        if frames:
            return Extent(seconds=frames * frame.seconds)
    # Without such a header libsndfile guesses from the first bit rate, so count; a last frame that is not whole tells a
    # cut.
    seconds = 0.0
    for _ in range(_MAX_FRAMES):
        file.seek(position)
        frame = _mpeg_frame(file.read(4))
        if frame is None:  # the end, a tag at the end, or damage, which the decoder judges
            break
        if position + frame.size > size:
            return Extent(cut_short="is cut short: its last MPEG frame is not whole")
        position += frame.size
        seconds += frame.seconds
    return Extent(seconds)


def _missing(announced: int, size: int) -> str:
    return f"is cut short: its header announces {announced} bytes and it has {size}"


def _after_id3(file: IO[bytes]) -> int:
    """Where the audio starts: behind ID3v2 tags, if there are any."""
    position = 0
    for _ in range(4):
        file.seek(position)
        head = file.read(10)
        if len(head) < 10 or head[:3] != b"ID3":
            break
        length = (head[6] & 127) << 21 | (head[7] & 127) << 14 | (head[8] & 127) << 7 | head[9] & 127
        position += 10 + length + (10 if head[5] & 16 else 0)
    return position


class _Frame(NamedTuple):
    size: int  # bytes
    seconds: float


def _mpeg_frame(head: bytes) -> _Frame | None:
    """The MPEG audio frame with this 4-byte header; None if it is not one."""
    if len(head) < 4 or head[0] != 0xFF or head[1] & 0xE0 != 0xE0:
        return None
    version, layer = head[1] >> 3 & 3, 4 - (head[1] >> 1 & 3)
    bitrate, rate = head[2] >> 4, head[2] >> 2 & 3
    if version == 1 or layer == 4 or bitrate in (0, 15) or rate == 3:
        return None
    bits = 1000 * _BITRATES_KBPS[version == 3, layer][bitrate]
    hertz = _RATES_HZ[version][rate]
    padding = head[2] >> 1 & 1
    if layer == 1:
        return _Frame((12 * bits // hertz + padding) * 4, 384 / hertz)
    samples = 576 if layer == 3 and version != 3 else 1152
    return _Frame(samples // 8 * bits // hertz + padding, samples / hertz)
