"""Beats per minute, by librosa's tempogram, and what counts as the tempo that was asked for."""

import numpy as np
from numpy.typing import NDArray

from musicgen.evaluation.pitch_classes import RATE_HZ

HOP = 128  # 8 ms: with librosa's usual 512 the lags near 120 bpm would be 6 % apart
TOLERANCE = 0.08
OCTAVES = (0.5, 1.0, 2.0)


def estimate_tempo(audio: NDArray[np.float32]) -> float:
    """The clip's tempo in beats per minute; NaN where nothing changes. `audio` is [samples] at 16 kHz."""
    from librosa import feature, onset  # type: ignore[attr-defined]  # a lazy module

    onsets = onset.onset_strength(y=audio, sr=RATE_HZ, hop_length=HOP, n_fft=1024, n_mels=64)
    if not np.isfinite(onsets).all() or np.ptp(onsets) == 0:
        return float("nan")
    return float(feature.tempo(onset_envelope=onsets, sr=RATE_HZ, hop_length=HOP)[0])


def tempo_matches(asked_bpm: float, heard_bpm: float, octaves: bool = True) -> bool:
    """Whether the tempo heard is the one asked for, within 8 %; with `octaves`, half and double of it count too."""
    factors = OCTAVES if octaves else (1.0,)
    return any(abs(heard_bpm / (asked_bpm * factor) - 1) <= TOLERANCE for factor in factors)
