"""The pitch of one voice, by SwiftF0 (Nieradzik 2025), whose small network ships in its package."""

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from musicgen.evaluation.pitch_classes import RATE_HZ

VOICED = 0.5  # the tracker's own threshold of confidence
HALF_SEMITONE = 0.5


def track_pitch(audio: NDArray[np.float32]) -> NDArray[np.float32]:
    """MIDI pitch of every 16 ms of `audio` [samples] at 16 kHz; NaN where the tracker hears no single voice."""
    result = _tracker().detect(audio, RATE_HZ)
    midi = 69 + 12 * np.log2(np.maximum(result.pitch_hz, 1.0) / 440)
    return np.where(result.confidence >= VOICED, midi, np.nan).astype(np.float32)


def pitch_agreement(asked: NDArray[np.float32], heard: NDArray[np.float32]) -> float:
    """The part of the voiced frames of `asked` where `heard` is within half a semitone, octaves apart or not; NaN if
    none is voiced.
    """
    voiced = np.isfinite(asked)
    if not voiced.any():
        return float("nan")
    missing = len(asked) - len(heard)
    heard = np.pad(heard, (0, missing), constant_values=np.nan) if missing > 0 else heard[: len(asked)]
    apart = (heard - asked)[voiced]
    apart = np.abs(apart - 12 * np.round(apart / 12))
    return float((apart <= HALF_SEMITONE).mean())  # a comparison with NaN is False


@lru_cache(maxsize=1)
def _tracker() -> Any:
    from swift_f0 import SwiftF0

    return SwiftF0(threads=1, spin=False)
