"""Sound to codes and back: the interface of every codec."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from musicgen.patterns import Codes

# Codes [codebooks, frames] of any integer type.


class Codec(Protocol):
    """Converts sound to codes and back. `codebooks` counts those of all channels."""

    sample_rate: int  # Hz
    frame_rate: float  # frames per second
    channels: int
    codebooks: int
    codebook_size: int

    def encode(self, audio: NDArray[np.float32]) -> NDArray[np.int16]:
        """Encode float32 [channels, samples] at `sample_rate` -> codes int16 [codebooks, frames]; the last frame is
        padded.
        """

    def decode(self, codes: Codes) -> NDArray[np.float32]:
        """Decode codes [codebooks, frames] -> sound float32 [channels, samples], nominally within [-1, 1]."""

    def decode_all(self, clips: Sequence[Codes]) -> list[NDArray[np.float32]]:
        """Decode each clip to the same bits as `decode`, perhaps in less time."""
