"""Checks of the arrays that go into a codec, so that every codec raises the same errors."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from musicgen.model.codec.codec import Codes


def check_audio(audio: ArrayLike, channels: int) -> NDArray[np.float32]:
    """Return sound as float32 [channels, samples].

    Raises ValueError for another shape, none, or samples that are not finite.
    """
    audio = np.asarray(audio, dtype=np.float32)
    if audio.ndim != 2 or audio.shape[0] != channels or audio.shape[1] == 0:
        raise ValueError(f"audio is [{channels}, samples], not {list(audio.shape)}")
    if not np.isfinite(audio).all():
        raise ValueError("audio has samples that are not finite")
    return audio


def check_codes(codes: ArrayLike, codebooks: int, size: int) -> Codes:
    """Return codes [codebooks, frames]. Raises ValueError for another shape, none, or codes not in 0 .. size - 1."""
    codes = np.asarray(codes)
    if codes.ndim != 2 or codes.shape[0] != codebooks or codes.shape[1] == 0:
        raise ValueError(f"codes are [{codebooks}, frames], not {list(codes.shape)}")
    if not np.issubdtype(codes.dtype, np.integer):
        raise ValueError(f"codes are integers, not {codes.dtype}")
    if codes.min() < 0 or codes.max() >= size:
        raise ValueError(f"codes lie in 0 .. {size - 1}; found {codes.min()} .. {codes.max()}")
    return codes
