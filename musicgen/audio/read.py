"""Decode a fetched audio file within bounds: only as many seconds as are needed, in blocks, whatever its header claims.

libsndfile decodes, soxr resamples. Anything that is not a plain wav, flac, mp3 or ogg file of at most half an hour in
mono or stereo is refused before a sample is decoded; a longer melody than the model listens to is simply cut.
"""

import io
from collections.abc import Callable
from math import ceil
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from musicgen.audio.container import Extent, Kind, detect_kind, measure_extent
from musicgen.errors import RowError

MAX_S = 1800.0  # a whole symphony is a mistake, ten hours are an attack; the model listens to 30 s of it
MAX_CHANNELS = 2
MIN_RATE_HZ, MAX_RATE_HZ = 2_000, 192_000
MAX_LEVEL = 1e3  # 60 dB over full scale; float files can hold 3e38, whose sums and squares are infinite

Refuse = Callable[[str], RowError]

_BLOCK = 1 << 16  # frames: at most 0.5 MB a block
_UNKNOWN = 1 << 62  # libsndfile says about 2^63 frames when a header does not tell the length


def decode_excerpt(
    file: IO[bytes], *, rate: int, seconds: float, channels: int = 1, what: str = "melody", name: str = "file"
) -> NDArray[np.float32]:
    """The first `seconds` of an audio file as float32 [channels, samples] at `rate` Hz.

    `channels` is 1 (the mean of both) or 2 (a mono file twice). `what` and `name` serve the messages. Memory is bounded
    by the result and one block, time by `MAX_S`. Raises RowError("melody") with the reason for a file that is not
    audio, not of an allowed kind, too long, of too many channels, of an odd rate, cut short, not finite, or beyond
    `MAX_LEVEL`.
    """
    import soundfile

    def refuse(reason: str) -> RowError:
        return RowError("melody", f"{what} {name} {reason}")

    kind = detect_kind(file)
    if kind is None:
        raise refuse("is not a wav, flac, mp3 or ogg file")
    extent = measure_extent(file, kind)
    if extent.cut_short:
        raise refuse(extent.cut_short)
    file.seek(0)
    try:
        with soundfile.SoundFile(file) as sound:
            _check_header(sound, kind, extent, refuse)
            # Encoder delay and padding make an mp3 a little shorter than its frames: there the end of the data is the
            # end.
            announced = None if kind == "mp3" else sound.frames
            return _read(sound, rate, min(seconds, MAX_S), channels, announced, refuse)
    except soundfile.LibsndfileError as error:
        said = error.error_string.rstrip(".")
        detail = (
            "" if "does not exist" in said else f" (libsndfile: {said})"
        )  # what it says of any stream that is no mp3
        raise refuse(f"cannot be decoded as {kind}, it is damaged or cut short{detail}") from error


def _check_header(sound: Any, kind: Kind, extent: Extent, refuse: Refuse) -> None:
    """Everything that can be refused before a sample is decoded."""
    if sound.channels > MAX_CHANNELS:
        raise refuse(f"has {sound.channels} channels: mix it down to mono or stereo")
    if not MIN_RATE_HZ <= sound.samplerate <= MAX_RATE_HZ:
        raise refuse(
            f"has a sample rate of {sound.samplerate} Hz: resample it to between {MIN_RATE_HZ} and {MAX_RATE_HZ} Hz"
        )
    if extent.seconds is None and not 0 <= sound.frames < _UNKNOWN:
        raise refuse(f"does not say how long it is: write it again as a {kind} file with its length in the header")
    seconds = sound.frames / sound.samplerate if extent.seconds is None else extent.seconds
    if seconds == 0:
        raise refuse("holds no samples")
    if seconds > MAX_S:
        raise refuse(f"is {_duration(seconds)} long, and at most {_duration(MAX_S)} are allowed: cut it")
    if kind == "mp3" and sound.frames < (0.99 * seconds - 0.2) * sound.samplerate:  # libsndfile would stop at its guess
        raise refuse("is an mp3 of varying bit rate without a header that tells its length: write it again")
    if kind == "ogg" and "lacks an end-of-stream bit" in sound.extra_info:
        raise refuse("is cut short: its last page does not end the stream")


def _read(
    sound: Any, rate: int, seconds: float, channels: int, announced: int | None, refuse: Refuse
) -> NDArray[np.float32]:
    import soxr

    wanted = ceil(seconds * sound.samplerate)
    if announced is not None:
        wanted = min(wanted, announced)
    stream = (
        None
        if sound.samplerate == rate
        else soxr.ResampleStream(sound.samplerate, rate, channels, dtype="float32", quality="HQ")
    )
    pieces: list[NDArray[np.float32]] = []
    done = 0
    while done < wanted:
        block = sound.read(
            min(_BLOCK, wanted - done), dtype="float32", always_2d=True
        )  # [frames, channels of the file]
        if len(block) == 0:
            break
        done += len(block)
        # Before anything is summed: what is within the level stays finite through the mix and the resampler.
        if not np.isfinite(block).all():
            raise refuse("contains samples that are not finite numbers")
        if (level := float(np.abs(block).max())) > MAX_LEVEL:
            raise refuse(f"contains samples as large as {level:.1e}, where full scale is 1: normalize it")
        mixed = _mix(block, channels)
        pieces.append(mixed if stream is None else stream.resample_chunk(mixed))
    if announced is not None and done < wanted:
        raise refuse(
            f"is cut short: it announces {announced / sound.samplerate:.1f} s and ends after "
            f"{done / sound.samplerate:.1f} s"
        )
    if stream is not None:
        pieces.append(stream.resample_chunk(np.zeros((0, channels), dtype=np.float32), last=True))
    audio = (
        np.concatenate(pieces)[: max(1, round(seconds * rate))] if pieces else np.zeros((0, channels), dtype=np.float32)
    )
    if len(audio) == 0:
        raise refuse("holds no samples, or too few to be heard")
    return np.ascontiguousarray(audio.T)


def _mix(block: NDArray[np.float32], channels: int) -> NDArray[np.float32]:
    if block.shape[1] == channels:
        return block
    if channels == 1:
        return block.mean(axis=1, keepdims=True, dtype=np.float32)
    return np.repeat(block, channels, axis=1)


def _duration(seconds: float) -> str:
    return (
        f"{seconds / 3600:.1f} h"
        if seconds >= 3600
        else f"{seconds / 60:.0f} min"
        if seconds >= 120
        else f"{seconds:.1f} s"
    )


def decode_audio(data: bytes) -> tuple[NDArray[np.float32], int]:
    """Decode a file that `encode` wrote: float32 [channels, samples] in [-1, 1), and its sample rate in Hz.

    Raises `ValueError` if the bytes are not audio.
    """
    import soundfile

    try:
        samples, rate = soundfile.read(io.BytesIO(data), dtype="float32", always_2d=True)
    except (soundfile.LibsndfileError, RuntimeError) as error:
        raise ValueError(f"not decodable audio: {error}") from None
    return np.ascontiguousarray(samples.T), rate
