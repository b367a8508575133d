"""Decodes audio files within bounds: only as many seconds as are needed, in blocks, whatever the header says.

libsndfile decodes, or PyAV what libsndfile does not know (pyav_file.py); soxr resamples. What players play is accepted.
A file of another kind, of more than half an hour or more than eight channels is refused before a sample is decoded. A
file that is longer than the model uses is cut.
"""

import io
from collections.abc import Callable
from math import ceil
from typing import IO, TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from musicgen.audio.container import PYAV_KINDS, Extent, Kind, Piece, detect_kind, measure_extent
from musicgen.audio.file_slice import FileSlice
from musicgen.audio.pyav_file import PyavFile
from musicgen.errors import RowError

if TYPE_CHECKING:
    from soundfile import SoundFile

MAX_S = 1800.0  # longer files are refused: the model uses 30 s, and a header of ten hours may be an attack
MAX_CHANNELS = 8
_LONGEST_CLIP_S = 36_000.0  # no job makes longer clips
MIN_RATE_HZ, MAX_RATE_HZ = 2_000, 192_000
MAX_LEVEL = 1e3  # 60 dB over full scale; float files can hold 3e38, whose sums and squares are infinite

Refuse = Callable[[str], RowError]
"""Makes the error of a refused file from the reason."""

_BLOCK_VALUES = 1 << 17  # samples of all channels: 0.5 MB a block
_UNKNOWN_FRAMES = 1 << 62  # libsndfile reports about 2^63 frames when a header does not give the length


def decode_excerpt(
    file: IO[bytes], *, sample_rate: int, seconds: float, channels: int = 1, subject: str = "melody", name: str = "file"
) -> NDArray[np.float32]:
    """Decode the first `seconds` of an audio file to float32 [channels, samples] at `sample_rate` Hz.

    `channels` is 1 (the mean of the file's channels) or 2 (a mono file twice; further channels in both). `subject` and
    `name` are used in messages. Memory is bounded by the result and one block, time by `MAX_S`. Raises
    RowError("melody") with the reason for a file that is not audio, not of an allowed kind, too long, of too many
    channels or of an unusual sample rate, that is cut short, or whose samples are not finite or exceed `MAX_LEVEL`.
    """

    def refuse(reason: str) -> RowError:
        return RowError("melody", f"{subject} {name} {reason}")

    kind = detect_kind(file)
    if kind is None:
        raise refuse("is not a wav, flac, mp3 or ogg file")
    extent = measure_extent(file, kind)
    if extent.cut_short:
        raise refuse(extent.cut_short)
    samples_wanted = max(1, round(min(seconds, MAX_S) * sample_rate))
    parts: list[NDArray[np.float32]] = []  # each [samples, channels]
    for piece in extent.pieces:
        samples_left = samples_wanted - sum(map(len, parts))
        if samples_left <= 0:
            break
        parts.append(_decode_piece(file, kind, extent, piece, sample_rate, samples_left, channels, refuse))
    if not any(map(len, parts)):
        raise refuse("holds no samples, or too few to decode")
    return np.ascontiguousarray(np.concatenate(parts).T)


def _decode_piece(
    file: IO[bytes],
    kind: Kind,
    extent: Extent,
    piece: Piece,
    sample_rate: int,
    samples: int,
    channels: int,
    refuse: Refuse,
) -> NDArray[np.float32]:
    """Decode up to `samples` samples of a part of a file: float32 [samples, channels]."""
    import soundfile

    sound_file: SoundFile | PyavFile
    part = FileSlice(file, piece.start, piece.end, piece.head, piece.tail)
    if kind in PYAV_KINDS:
        with PyavFile(part, kind, refuse) as sound_file:
            _check_header(sound_file, kind, extent, refuse)
            return _read_blocks(sound_file, sample_rate, samples, channels, sound_file.announced_frames, refuse)
    try:
        with soundfile.SoundFile(part) as sound_file:
            _check_header(sound_file, kind, extent, refuse)
            # Encoder delay and padding make an mp3 a little shorter than its frames, so its header's length is not
            # checked against the decoded samples.
            announced_frames = None if kind == "mp3" else sound_file.frames
            return _read_blocks(sound_file, sample_rate, samples, channels, announced_frames, refuse)
    except soundfile.LibsndfileError as error:
        library_message = error.error_string.rstrip(".")
        # libsndfile says "does not exist" of every stream that is not an mp3, which would mislead.
        detail = "" if "does not exist" in library_message else f" (libsndfile: {library_message})"
        raise refuse(f"cannot be decoded as {kind}, it is damaged or cut short{detail}") from error


def _check_header(sound_file: "SoundFile | PyavFile", kind: Kind, extent: Extent, refuse: Refuse) -> None:
    """Refuse a file for anything that its header shows, before a sample is decoded."""
    if sound_file.channels > MAX_CHANNELS:
        raise refuse(f"has {sound_file.channels} channels, and at most {MAX_CHANNELS} are allowed: mix it down")
    if not MIN_RATE_HZ <= sound_file.samplerate <= MAX_RATE_HZ:
        raise refuse(
            f"has a sample rate of {sound_file.samplerate} Hz: resample it to between {MIN_RATE_HZ} and "
            f"{MAX_RATE_HZ} Hz"
        )
    if extent.seconds is None and not 0 <= sound_file.frames < _UNKNOWN_FRAMES:
        raise refuse(f"does not say how long it is: write it again as a {kind} file with its length in the header")
    seconds = sound_file.frames / sound_file.samplerate if extent.seconds is None else extent.seconds
    if seconds == 0:
        raise refuse("holds no samples")
    if seconds > MAX_S:
        raise refuse(f"is {_format_duration(seconds)} long, and at most {_format_duration(MAX_S)} are allowed: cut it")
    if (
        kind == "mp3" and sound_file.frames < (0.99 * seconds - 0.2) * sound_file.samplerate
    ):  # libsndfile would stop at its estimate
        raise refuse("is an mp3 of varying bit rate without a header that tells its length: write it again")


def _read_blocks(
    sound_file: "SoundFile | PyavFile",
    sample_rate: int,
    samples: int,
    channels: int,
    announced_frames: int | None,
    refuse: Refuse,
) -> NDArray[np.float32]:
    import soxr

    frames_wanted = ceil(samples / sample_rate * sound_file.samplerate)
    if announced_frames is not None:
        frames_wanted = min(frames_wanted, announced_frames)
    resampler = (
        None
        if sound_file.samplerate == sample_rate
        else soxr.ResampleStream(sound_file.samplerate, sample_rate, channels, dtype="float32", quality="HQ")
    )
    pieces: list[NDArray[np.float32]] = []
    block_frames = _BLOCK_VALUES // sound_file.channels
    frames_read = 0
    while frames_read < frames_wanted:
        # [frames, channels of the file]
        block = sound_file.read(min(block_frames, frames_wanted - frames_read), dtype="float32", always_2d=True)
        if len(block) == 0:
            break
        frames_read += len(block)
        # Checked before channels are summed: samples within the level stay finite in the mix and the resampler.
        if not np.isfinite(block).all():
            raise refuse("contains samples that are not finite numbers")
        if (largest := float(np.abs(block).max())) > MAX_LEVEL:
            raise refuse(f"contains samples as large as {largest:.1e}, where full scale is 1: normalize it")
        mixed = _mix_channels(block, channels)
        pieces.append(mixed if resampler is None else resampler.resample_chunk(mixed))
    tolerated_frames = sound_file.tolerated_frames if isinstance(sound_file, PyavFile) else 0
    if announced_frames is not None and frames_read < frames_wanted - tolerated_frames:
        raise refuse(
            f"is cut short: it announces {announced_frames / sound_file.samplerate:.1f} s and ends after "
            f"{frames_read / sound_file.samplerate:.1f} s"
        )
    if resampler is not None:
        pieces.append(resampler.resample_chunk(np.zeros((0, channels), dtype=np.float32), last=True))
    return np.concatenate([np.zeros((0, channels), dtype=np.float32), *pieces])[:samples]


def _mix_channels(block: NDArray[np.float32], channels: int) -> NDArray[np.float32]:
    if block.shape[1] == channels:
        return block
    if channels == 1:
        return block.mean(axis=1, keepdims=True, dtype=np.float32)
    if block.shape[1] == 1:
        return np.repeat(block, channels, axis=1)
    others = block[:, channels:].mean(axis=1, keepdims=True, dtype=np.float32)  # center, surround, bass ...
    return (block[:, :channels] + others) / np.float32(2)


def _format_duration(seconds: float) -> str:
    return (
        f"{seconds / 3600:.1f} h"
        if seconds >= 3600
        else f"{seconds / 60:.0f} min"
        if seconds >= 120
        else f"{seconds:.1f} s"
    )


def decode_audio(file_bytes: bytes, longest_s: float = _LONGEST_CLIP_S) -> tuple[NDArray[np.float32], int]:
    """Decode a file that `encode_audio` made: float32 [channels, samples] in [-1, 1), and its sample rate in Hz.

    Memory is bounded by `longest_s`, whatever the file is. Raises `ValueError` for bytes that are not audio, or longer.
    """
    import soundfile

    try:
        with soundfile.SoundFile(io.BytesIO(file_bytes)) as file:
            sample_rate, limit = file.samplerate, ceil(longest_s * file.samplerate)
            if file.channels > MAX_CHANNELS or sample_rate > MAX_RATE_HZ:
                raise ValueError(f"the audio has {file.channels} channels at {sample_rate} Hz, which no run makes")
            if file.frames > limit:
                raise ValueError(f"the audio is {_format_duration(file.frames / sample_rate)} long, more than expected")
            samples = file.read(dtype="float32", always_2d=True)
    except (soundfile.LibsndfileError, RuntimeError) as error:
        raise ValueError(f"not decodable audio: {error}") from None
    return np.ascontiguousarray(samples.T), sample_rate
