"""Estimates the tempo with librosa's tempogram, and compares it with the tempo that was asked for."""

import numpy as np
from numpy.typing import NDArray

from musicgen.evaluation.pitch_classes import RATE_HZ

HOP = 128  # 8 ms; with librosa's default of 512 the lags near 120 bpm would be 6 % apart
TOLERANCE = 0.08
OCTAVES = (0.5, 1.0, 2.0)


def estimate_tempo(audio: NDArray[np.float32]) -> float:
    """Estimate the tempo of `audio` [samples] at 16 kHz in beats per minute; NaN for an unchanging sound."""
    from librosa import feature, onset  # type: ignore[attr-defined]  # a lazy module

    onsets = onset.onset_strength(y=audio, sr=RATE_HZ, hop_length=HOP, n_fft=1024, n_mels=64)
    if not np.isfinite(onsets).all() or np.ptp(onsets) == 0:
        return float("nan")
    return float(feature.tempo(onset_envelope=onsets, sr=RATE_HZ, hop_length=HOP)[0])


def tempo_matches(asked_bpm: float, measured_bpm: float, octaves: bool = True) -> bool:
    """Return whether the measured tempo is the one asked for, within 8 %; with `octaves`, also its half or double."""
    factors = OCTAVES if octaves else (1.0,)
    return any(abs(measured_bpm / (asked_bpm * factor) - 1) <= TOLERANCE for factor in factors)
