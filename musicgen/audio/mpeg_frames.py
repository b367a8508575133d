"""Finds and counts the frames of an mp3 file, and writes the header that tells a decoder how many there are.

Sources: ISO/IEC 11172-3 section 2.4.2.3 (frame headers), MPEG-2 13818-3; the Xing/Info header as LAME writes it.
"""

import struct
from dataclasses import dataclass
from typing import IO, NamedTuple

_BITRATES_KBPS = {  # (is MPEG-1, layer) -> bit rates by the header's index
    (True, 1): (0, 32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (True, 2): (0, 32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (True, 3): (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (False, 1): (0, 32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (False, 2): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (False, 3): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_SAMPLE_RATES_HZ = {3: (44100, 48000, 32000), 2: (22050, 24000, 16000), 0: (11025, 12000, 8000)}
_MAX_FRAMES = 300_000  # two hours; longer files are refused for their length
_SEARCHED_BYTES = 1 << 18  # of padding or junk before a frame
_MAX_GAPS = 100  # with junk between frames
_FRAMES_IN_A_ROW = 4  # so many headers of one kind are no accident
_HEADER_BITRATE_INDEX = 9  # of the frame that we write: 128 or 80 kbit/s, room enough for what it says


class MpegFrame(NamedTuple):
    """A frame's size in bytes, its length, and what all frames of a stream have in common."""

    size: int
    seconds: float
    stream: tuple[int, int, int]  # version, layer, index of the sample rate


@dataclass(frozen=True, slots=True)
class FrameCount:
    """The frames of a stream: how many, their length, and the offset behind the last whole one."""

    count: int
    seconds: float
    end: int


def parse_mpeg_header(header: bytes) -> MpegFrame | None:
    """Return the frame with this 4-byte header; None if it is not the header of an MPEG audio frame."""
    if len(header) < 4 or header[0] != 0xFF or header[1] & 0xE0 != 0xE0:
        return None
    version, layer = header[1] >> 3 & 3, 4 - (header[1] >> 1 & 3)
    bitrate_index, rate_index = header[2] >> 4, header[2] >> 2 & 3
    if version == 1 or layer == 4 or bitrate_index in (0, 15) or rate_index == 3:
        return None
    bits_per_s = 1000 * _BITRATES_KBPS[version == 3, layer][bitrate_index]
    sample_rate = _SAMPLE_RATES_HZ[version][rate_index]
    padding = header[2] >> 1 & 1
    stream = (version, layer, rate_index)
    if layer == 1:
        return MpegFrame((12 * bits_per_s // sample_rate + padding) * 4, 384 / sample_rate, stream)
    samples = 576 if layer == 3 and version != 3 else 1152
    return MpegFrame(samples // 8 * bits_per_s // sample_rate + padding, samples / sample_rate, stream)


def skip_id3_tags(file: IO[bytes], position: int = 0) -> int:
    """Return the offset behind the ID3v2 tags that stand at `position`: that itself if there are none."""
    for _ in range(4):
        file.seek(position)
        header = file.read(10)
        if len(header) < 10 or header[:3] != b"ID3":
            break
        tag_size = (header[6] & 127) << 21 | (header[7] & 127) << 14 | (header[8] & 127) << 7 | header[9] & 127
        position += 10 + tag_size + (10 if header[5] & 16 else 0)
    return position


def find_first_frame(file: IO[bytes], start: int) -> int | None:
    """Return the offset of the first of some frames in a row; None if there is none.

    It is at `start` or behind the tags that stand there, or up to 256 KB further on.
    """
    start = skip_id3_tags(file, start)
    file.seek(start)
    searched = file.read(_SEARCHED_BYTES + 4)
    position = searched.find(b"\xff")
    while position >= 0:
        if parse_mpeg_header(searched[position : position + 4]) and _has_followers(file, start + position):
            return start + position
        position = searched.find(b"\xff", position + 1)
    return None


def _has_followers(file: IO[bytes], position: int) -> bool:
    """Return whether a frame is followed by others of its stream: by one at least, and no less than the file has."""
    stream = None
    for number in range(_FRAMES_IN_A_ROW):
        file.seek(position)
        header = file.read(4)
        if len(header) < 4:
            return number >= 2
        frame = parse_mpeg_header(header)
        if frame is None or frame.stream != (stream or frame.stream):
            return False
        stream, position = frame.stream, position + frame.size
    return True


def count_frames(file: IO[bytes], start: int, file_size: int) -> FrameCount:
    """Count the whole frames from `start` on. Junk between them is passed over, a cut frame at the end left out."""
    seconds, count, position, end = 0.0, 0, start, start
    gaps = 0
    for _ in range(_MAX_FRAMES):
        file.seek(position)
        header = file.read(4)
        frame = parse_mpeg_header(header)
        if frame is None:
            gaps += 1
            following = find_first_frame(file, position) if len(header) == 4 and gaps <= _MAX_GAPS else None
            if following is None:
                break
            position = following
            continue
        if position + frame.size > file_size:
            break
        position += frame.size
        end, count, seconds = position, count + 1, seconds + frame.seconds
    return FrameCount(count, seconds, end)


def make_length_header(first_header: bytes, frames: FrameCount, audio_bytes: int) -> bytes:
    """Return a silent frame with a Xing header, to stand before a stream of layer III that has none.

    `first_header` are the first 4 bytes of the stream. Without such a frame a decoder has to guess the length from the
    first frame's bit rate, and stops there.
    """
    rate_bits = first_header[2] & 0b1100
    header = bytes((0xFF, first_header[1] | 1, _HEADER_BITRATE_INDEX << 4 | rate_bits, first_header[3]))
    frame = parse_mpeg_header(header)
    if frame is None or frame.stream[1] != 3:
        return b""
    is_mono, is_mpeg_1 = header[3] >> 6 == 3, frame.stream[0] == 3
    side_bytes = {(True, False): 32, (True, True): 17, (False, False): 17, (False, True): 9}[is_mpeg_1, is_mono]
    length = struct.pack(">4sIII", b"Xing", 3, frames.count, audio_bytes + frame.size)
    return (header + bytes(side_bytes) + length).ljust(frame.size, b"\0")
