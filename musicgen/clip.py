"""The outcomes of a request: a finished clip, or why there is none."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from musicgen.errors import RowError
from musicgen.request import Request


@dataclass(frozen=True, slots=True)
class Clip:
    """The codes and the audio of one request."""

    request: Request
    codes: NDArray[np.int16]  # [codebooks, frames]
    audio: NDArray[np.float32]  # [channels, samples], nominally in [-1, 1]
    sample_rate: int
    engine: str = ""  # fingerprint of the engine when it was made

    @property
    def duration_s(self) -> float:
        """The length of the audio in seconds."""
        return self.audio.shape[-1] / self.sample_rate


@dataclass(frozen=True, slots=True)
class Failed:
    """A request that could not be made, and why."""

    request: Request
    error: RowError
