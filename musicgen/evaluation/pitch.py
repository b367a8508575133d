"""Tracks the pitch of a single voice with SwiftF0 (Nieradzik 2025), whose package contains its small network."""

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from musicgen.evaluation.pitch_classes import RATE_HZ

VOICED = 0.5  # the tracker's own threshold of confidence
HALF_SEMITONE = 0.5


def track_pitch(audio: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the MIDI pitch of every 16 ms of `audio` [samples] at 16 kHz; NaN where no single voice is detected."""
    result = _load_tracker().detect(audio, RATE_HZ)
    midi = 69 + 12 * np.log2(np.maximum(result.pitch_hz, 1.0) / 440)
    return np.where(result.confidence >= VOICED, midi, np.nan).astype(np.float32)


def pitch_agreement(asked: NDArray[np.float32], measured: NDArray[np.float32]) -> float:
    """Return the share of the voiced frames of `asked` where `measured` is within half a semitone, in any octave.

    Both are MIDI pitches [frames]. NaN if no frame is voiced.
    """
    voiced = np.isfinite(asked)
    if not voiced.any():
        return float("nan")
    missing = len(asked) - len(measured)
    measured = np.pad(measured, (0, missing), constant_values=np.nan) if missing > 0 else measured[: len(asked)]
    difference = (measured - asked)[voiced]
    difference = np.abs(difference - 12 * np.round(difference / 12))
    return float((difference <= HALF_SEMITONE).mean())  # a comparison with NaN is False


@lru_cache(maxsize=1)
def _load_tracker() -> Any:
    from swift_f0 import SwiftF0

    return SwiftF0(threads=1, spin=False)
