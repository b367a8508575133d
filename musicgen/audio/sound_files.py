"""Samples in memory as audio files, for requests whose melody or continuation is an array."""

import hashlib
import io
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from musicgen.audio.read import MAX_CHANNELS, MAX_RATE_HZ, MIN_RATE_HZ
from musicgen.errors import RowError, first_line


def write_sound(source: object, folder: Path, subject: str) -> str:
    """Write (samples, rate) to a WAV file in `folder`, whose name is the hash of its content; returns its path.

    `samples` is [samples], [channels, samples] or [samples, channels]: float in [-1, 1], or integers of full scale;
    `rate` is in Hz. Equal sounds give equal bytes, and so equal requests. Raises `RowError` (invalid), which calls the
    sound `subject`, for what is no such pair.
    """
    if not isinstance(source, tuple) or len(source) != 2:
        raise RowError(
            "invalid", f"{subject} is of type {type(source).__name__}; give a path, a URI, or (samples, rate)"
        )
    samples, rate = source
    if isinstance(rate, bool) or not isinstance(rate, int | np.integer) or not MIN_RATE_HZ <= rate <= MAX_RATE_HZ:
        raise RowError(
            "invalid",
            f"{subject}: the rate is {rate!r}; it must be a whole number of Hz from {MIN_RATE_HZ} to {MAX_RATE_HZ}",
        )
    buffer = io.BytesIO()
    from scipy.io import wavfile  # which, unlike soundfile, writes no time stamp

    wavfile.write(buffer, int(rate), _to_waveform(samples, subject).T)
    path = folder / f"{hashlib.sha256(buffer.getvalue()).hexdigest()}.wav"
    path.write_bytes(buffer.getvalue())
    return str(path)


def _to_waveform(samples: ArrayLike, subject: str) -> NDArray[np.float32]:
    """Return the samples as float32 [channels, samples]. Raises `RowError`."""
    try:
        array = np.atleast_2d(np.asarray(samples))
    except (
        TypeError,
        ValueError,
        RuntimeError,
    ) as error:  # as of ragged lists, and tensors of a GPU or with a gradient
        raise RowError("invalid", f"{subject}: the samples are no array: {first_line(error)}") from None
    if array.dtype.kind not in "iuf":
        raise RowError("invalid", f"{subject}: the samples are no numbers (their type is {array.dtype})")
    if array.dtype.kind == "f":
        waveform = array.astype(np.float32)
    else:
        limits = np.iinfo(array.dtype)
        middle = (limits.min + limits.max + 1) // 2  # 0, and of unsigned integers the middle of their range
        waveform = ((array.astype(np.float64) - middle) / (limits.max - middle + 1)).astype(np.float32)
    if waveform.ndim == 2 and waveform.shape[0] > MAX_CHANNELS >= waveform.shape[1]:
        waveform = waveform.T
    if waveform.ndim != 2 or waveform.shape[0] > MAX_CHANNELS or waveform.size == 0:
        raise RowError(
            "invalid", f"{subject}: an array of shape {list(np.shape(samples))} is no sound; give [channels, samples]"
        )
    if not np.isfinite(waveform).all():
        raise RowError("invalid", f"{subject}: the samples hold NaN or infinity")
    return waveform
