"""Detects the kind of an audio file and whether its end is missing, from the headers alone, before decoding.

libsndfile decodes a truncated wav or mp3 file without an error, as a shorter sound, and mpg123 writes its warnings to
the process's stderr. So the headers are checked here first, as tolerantly as players do: wrong sizes, tags, padding and
junk are passed over.
"""

import os
import struct
from dataclasses import dataclass
from typing import IO, Literal

from musicgen.audio.mpeg_frames import (
    count_frames,
    find_first_frame,
    make_length_header,
    parse_mpeg_header,
    skip_id3_tags,
)
from musicgen.audio.ogg_streams import measure_ogg
from musicgen.audio.riff_chunks import measure_wav

Kind = Literal["wav", "flac", "mp3", "ogg", "m4a", "aac", "webm"]

PYAV_KINDS: tuple[Kind, ...] = ("m4a", "aac", "webm")
"""Kinds that libsndfile does not know."""

_WAV_MARKS = (b"RIFF", b"RIFX", b"RF64")


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a file to decode by itself: `head`, the bytes from `start` to `end`, and `tail`."""

    start: int
    end: int
    head: bytes = b""
    tail: bytes = b""


@dataclass(frozen=True, slots=True)
class Extent:
    """The length of a file by its headers. `cut_short` is the reason to think that its end is missing, or None.

    `seconds` is None where the headers do not give the length, or where libsndfile reads it more exactly. `pieces` are
    decoded one after another.
    """

    pieces: tuple[Piece, ...]
    seconds: float | None = None
    cut_short: str | None = None


def detect_kind(file: IO[bytes]) -> Kind | None:
    """Detect the kind of an audio file by its first bytes; None for anything else (text, pictures, archives ...)."""
    file.seek(0)
    header = file.read(12)
    if header[:4] in _WAV_MARKS and header[8:12] == b"WAVE":
        return "wav"
    if header[:4] == b"OggS":
        return "ogg"
    if header[4:8] in (b"ftyp", b"moov"):
        return "m4a"
    if header[:4] == b"\x1a\x45\xdf\xa3":
        return "webm"
    audio_start = skip_id3_tags(file)
    file.seek(audio_start)
    header = file.read(6)
    if header[:4] == b"fLaC":
        return "flac"
    if _is_adts(header) and _is_adts(_read_at(file, audio_start + _adts_size(header), 6) or header):
        return "aac"
    if audio_start == 0 and _is_lone_frame(file, header):
        return "mp3"
    return None if find_first_frame(file, audio_start) is None else "mp3"


def _is_lone_frame(file: IO[bytes], header: bytes) -> bool:
    """Return whether a file is one MPEG frame: two bytes of text can look like a header, so the end must follow."""
    frame = parse_mpeg_header(header[:4])
    return frame is not None and file.seek(0, os.SEEK_END) == frame.size


def _read_at(file: IO[bytes], position: int, size: int) -> bytes:
    file.seek(position)
    return file.read(size)


def _is_adts(header: bytes) -> bool:
    """Return whether this is the header of a frame of AAC (ISO/IEC 13818-7, section 6.2)."""
    return len(header) == 6 and header[0] == 0xFF and header[1] & 0xF6 == 0xF0 and _adts_size(header) > 7


def _adts_size(header: bytes) -> int:
    return (header[3] & 3) << 11 | header[4] << 3 | header[5] >> 5 if len(header) == 6 else 0


def measure_extent(file: IO[bytes], kind: Kind) -> Extent:
    """Measure the extent of a file of this kind, from its headers only."""
    file_size = file.seek(0, os.SEEK_END)
    if kind == "mp3":
        return _measure_mp3(file, file_size)
    if kind == "ogg":
        ogg = measure_ogg(file)
        cut_short = "is cut short: its last page is not whole" if ogg.is_cut else None
        pieces = (Piece(stream.start, stream.end, tail=stream.last_page) for stream in ogg.streams)
        return Extent(tuple(pieces), cut_short=cut_short)
    if kind == "wav":
        wav = measure_wav(file, file_size)
        cut_short = None if wav.missing is None else _describe_missing_bytes(*wav.missing)
        return Extent((Piece(wav.start, file_size, wav.head),), cut_short=cut_short)
    return Extent((Piece(skip_id3_tags(file) if kind == "flac" else 0, file_size),))


def _measure_mp3(file: IO[bytes], file_size: int) -> Extent:
    start = find_first_frame(file, 0) or 0
    first_bytes = _read_at(file, start, 256)
    frame = parse_mpeg_header(first_bytes)
    if frame is None:
        return Extent((Piece(start, file_size),))
    announced = _read_length_header(first_bytes)
    if announced is not None and announced.frames and not announced.size:
        return Extent((Piece(start, file_size),), announced.frames * frame.seconds)
    if announced is not None and announced.size:
        end = start + announced.size
        if end > file_size + frame.size:
            return Extent((Piece(start, file_size),), cut_short=_describe_missing_bytes(end, file_size))
        # Tags may stand behind the announced frames; other frames do where files were joined.
        if announced.frames and end <= file_size and find_first_frame(file, end) is None:
            return Extent((Piece(start, end),), announced.frames * frame.seconds)
    # The header says nothing, or is wrong, or counts only the first of the files that were joined. Without it
    # libsndfile estimates the length from the first bit rate, and stops there; so the frames are counted here.
    if announced is not None:
        start += frame.size
    frames = count_frames(file, start, file_size)
    head = make_length_header(first_bytes[:4], frames, frames.end - start)
    return Extent((Piece(start, frames.end, head),), frames.seconds)


@dataclass(frozen=True, slots=True)
class _AnnouncedLength:
    frames: int  # 0: the header does not say
    size: int  # in bytes, likewise


def _read_length_header(first_bytes: bytes) -> _AnnouncedLength | None:
    """Read the Xing or Info header in an mp3's first frame; None if there is none."""
    for marker in (b"Xing", b"Info"):
        mark_offset = first_bytes.find(marker)
        if mark_offset < 0 or len(first_bytes) < mark_offset + 16:
            continue
        flags, first, second = struct.unpack(">III", first_bytes[mark_offset + 4 : mark_offset + 16])
        frames = first if flags & 1 else 0
        size = (second if flags & 1 else first) if flags & 2 else 0
        return _AnnouncedLength(frames, size)
    return None


def _describe_missing_bytes(announced_size: int, size: int) -> str:
    return f"is cut short: its header announces {announced_size} bytes and it has {size}"
