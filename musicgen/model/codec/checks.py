"""What goes into a codec is looked at first: the same errors from every codec."""

from typing import Any

import numpy as np
from numpy.typing import NDArray


def check_audio(audio: NDArray[Any], channels: int) -> NDArray[np.float32]:
    """Sound as float32 [channels, samples]. Raises ValueError for another shape, none, or samples that are not finite."""
    audio = np.asarray(audio, dtype=np.float32)
    if audio.ndim != 2 or audio.shape[0] != channels or audio.shape[1] == 0:
        raise ValueError(f"audio is [{channels}, samples], not {list(audio.shape)}")
    if not np.isfinite(audio).all():
        raise ValueError("audio has samples that are not finite")
    return audio


def check_codes(codes: NDArray[Any], codebooks: int, size: int) -> NDArray[np.integer[Any]]:
    """Codes [codebooks, frames], each below `size`. Raises ValueError for another shape, none, or codes beyond the codebook."""
    codes = np.asarray(codes)
    if codes.ndim != 2 or codes.shape[0] != codebooks or codes.shape[1] == 0:
        raise ValueError(f"codes are [{codebooks}, frames], not {list(codes.shape)}")
    if not np.issubdtype(codes.dtype, np.integer):
        raise ValueError(f"codes are integers, not {codes.dtype}")
    if codes.min() < 0 or codes.max() >= size:
        raise ValueError(f"codes lie in 0 .. {size - 1}; found {codes.min()} .. {codes.max()}")
    return codes
