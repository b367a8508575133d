"""The bytes of an audio file as a waveform."""

import io

import numpy as np
from numpy.typing import NDArray


def decode(data: bytes) -> tuple[NDArray[np.float32], int]:
    """Decode a file that `encode` wrote: float32 [channels, samples] in [-1, 1), and its sample rate in Hz.

    Raises `ValueError` if the bytes are not audio.
    """
    import soundfile

    try:
        samples, rate = soundfile.read(io.BytesIO(data), dtype="float32", always_2d=True)
    except (soundfile.LibsndfileError, RuntimeError) as error:
        raise ValueError(f"not decodable audio: {error}") from None
    return np.ascontiguousarray(samples.T), rate
