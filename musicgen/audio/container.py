"""Detects the kind of an audio file and whether its end is missing, from the headers alone, before decoding.

libsndfile decodes a truncated wav or mp3 file without an error, as a shorter sound, and mpg123 writes its warnings to
the process's stderr. So the headers of both kinds are checked here first. Sources: RIFF/WAVE (Microsoft, 1991); MPEG-1
audio, ISO/IEC 11172-3 section 2.4.2.3 (frame headers), MPEG-2 13818-3; the Xing/Info header as LAME writes it; ID3v2.4
section 3.1.
"""

import os
import struct
from dataclasses import dataclass
from typing import IO, Literal, NamedTuple

Kind = Literal["wav", "flac", "mp3", "ogg"]

# Sizes from here on mean "unknown": programs that write to a pipe cannot go back and fill in the size.
_RIFF_UNKNOWN = 0x7FFF_0000

_BITRATES_KBPS = {  # (is MPEG-1, layer) -> bit rates by the header's index
    (True, 1): (0, 32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (True, 2): (0, 32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (True, 3): (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (False, 1): (0, 32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (False, 2): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (False, 3): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_MAX_FRAMES = 300_000  # two hours; longer files are refused for their length
_SAMPLE_RATES_HZ = {3: (44100, 48000, 32000), 2: (22050, 24000, 16000), 0: (11025, 12000, 8000)}


def detect_kind(file: IO[bytes]) -> Kind | None:
    """Detect the kind of an audio file by its first bytes; None for anything else (text, pictures, archives ...)."""
    file.seek(0)
    header = file.read(12)
    if header[:4] == b"RIFF" and header[8:12] == b"WAVE":
        return "wav"
    if header[:4] == b"fLaC":
        return "flac"
    if header[:4] == b"OggS":
        return "ogg"
    audio_start = _skip_id3_tags(file)
    file.seek(audio_start)
    header = file.read(4)
    if header == b"fLaC":
        return "flac"
    frame = parse_mpeg_header(header)
    if frame is None:
        return None
    if audio_start == 0:  # two bytes of text can look like a frame header, so another frame or the end must follow
        file.seek(frame.size)
        header = file.read(4)
        if len(header) == 4 and parse_mpeg_header(header) is None:
            return None
    return "mp3"


@dataclass(frozen=True, slots=True)
class Extent:
    """The length of a file by its headers. `cut_short` is the reason to think that its end is missing, or None.

    `seconds` is None where the headers do not give the length, or where libsndfile reads it more exactly.
    """

    seconds: float | None = None
    cut_short: str | None = None


def measure_extent(file: IO[bytes], kind: Kind) -> Extent:
    """Measure the extent of a file of this kind, from its headers only."""
    file.seek(0, os.SEEK_END)
    file_size = file.tell()
    if kind == "mp3":
        return _measure_mp3(file, file_size)
    if kind == "wav":
        file.seek(4)
        announced_size = struct.unpack("<I", file.read(4))[0] + 8
        if file_size < announced_size < _RIFF_UNKNOWN:
            return Extent(cut_short=_describe_missing_bytes(announced_size, file_size))
    return Extent()


def _measure_mp3(file: IO[bytes], file_size: int) -> Extent:
    audio_start = position = _skip_id3_tags(file)
    file.seek(audio_start)
    first_bytes = file.read(256)
    frame = parse_mpeg_header(first_bytes)
    if frame is None:
        return Extent()
    for marker in (b"Xing", b"Info"):
        mark_offset = first_bytes.find(marker)
        if mark_offset < 0 or len(first_bytes) < mark_offset + 16:
            continue
        flags, field_offset, frame_count = (
            struct.unpack(">I", first_bytes[mark_offset + 4 : mark_offset + 8])[0],
            mark_offset + 8,
            0,
        )
        if flags & 1:
            frame_count, field_offset = (
                struct.unpack(">I", first_bytes[field_offset : field_offset + 4])[0],
                field_offset + 4,
            )
        if flags & 2:  # the stream's size in bytes
            announced_size = audio_start + struct.unpack(">I", first_bytes[field_offset : field_offset + 4])[0]
            if announced_size > file_size:
                return Extent(cut_short=_describe_missing_bytes(announced_size, file_size))
        if frame_count:
            return Extent(seconds=frame_count * frame.seconds)
    # Without such a header libsndfile estimates the length from the first bit rate, so the frames are counted here. A
    # last frame that is not whole means that the file was cut.
    seconds = 0.0
    for _ in range(_MAX_FRAMES):
        file.seek(position)
        frame = parse_mpeg_header(file.read(4))
        if frame is None:  # the end, a tag at the end, or damage, which the decoder will report
            break
        if position + frame.size > file_size:
            return Extent(cut_short="is cut short: its last MPEG frame is not whole")
        position += frame.size
        seconds += frame.seconds
    return Extent(seconds)


def _describe_missing_bytes(announced_size: int, file_size: int) -> str:
    return f"is cut short: its header announces {announced_size} bytes and it has {file_size}"


def _skip_id3_tags(file: IO[bytes]) -> int:
    """Return the offset at which the audio starts: behind the ID3v2 tags, if there are any."""
    position = 0
    for _ in range(4):
        file.seek(position)
        header = file.read(10)
        if len(header) < 10 or header[:3] != b"ID3":
            break
        tag_size = (header[6] & 127) << 21 | (header[7] & 127) << 14 | (header[8] & 127) << 7 | header[9] & 127
        position += 10 + tag_size + (10 if header[5] & 16 else 0)
    return position


class _MpegFrame(NamedTuple):
    size: int  # in bytes
    seconds: float


def parse_mpeg_header(header: bytes) -> _MpegFrame | None:
    """Return the size and length of the MPEG audio frame with this 4-byte header; None if it is not a frame header."""
    if len(header) < 4 or header[0] != 0xFF or header[1] & 0xE0 != 0xE0:
        return None
    version, layer = header[1] >> 3 & 3, 4 - (header[1] >> 1 & 3)
    bitrate_index, rate_index = header[2] >> 4, header[2] >> 2 & 3
    if version == 1 or layer == 4 or bitrate_index in (0, 15) or rate_index == 3:
        return None
    bits_per_s = 1000 * _BITRATES_KBPS[version == 3, layer][bitrate_index]
    sample_rate = _SAMPLE_RATES_HZ[version][rate_index]
    padding = header[2] >> 1 & 1
    if layer == 1:
        return _MpegFrame((12 * bits_per_s // sample_rate + padding) * 4, 384 / sample_rate)
    samples = 576 if layer == 3 and version != 3 else 1152
    return _MpegFrame(samples // 8 * bits_per_s // sample_rate + padding, samples / sample_rate)
