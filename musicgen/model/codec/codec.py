"""Sound to codes and back: the interface that every codec has."""

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray


class Codec(Protocol):
    """Waveform <-> codes. `codebooks` counts those of all channels."""

    sample_rate: int  # Hz
    frame_rate: float  # frames per second
    channels: int
    codebooks: int
    codebook_size: int

    def encode(self, audio: NDArray[np.float32]) -> NDArray[np.int16]:
        """Codes int16 [codebooks, frames] of float32 [channels, samples] at `sample_rate`; the last frame is padded."""

    def decode(self, codes: NDArray[np.integer[Any]]) -> NDArray[np.float32]:
        """Sound float32 [channels, samples] of codes [codebooks, frames]; nominally within [-1, 1]."""

    def decode_all(self, clips: Sequence[NDArray[np.integer[Any]]]) -> list[NDArray[np.float32]]:
        """`decode` of each clip, perhaps in less time. The same bits."""
