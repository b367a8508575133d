"""Which instrument leads: a small classifier that learns from the corpus' originals and has never heard a generated
clip.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from musicgen.evaluation.pitch_classes import RATE_HZ

HOP = 160  # 10 ms
N_FFT = 1024
_MFCCS = 20
_AFTER_ONSET = (0, 2, 4, 8, 12, 18, 26, 36)  # frames: up to 0.36 s
_FLOOR_DB = 60.0


def instrument_features(audio: NDArray[np.float32]) -> NDArray[np.float32]:
    """What the timbre is told from: spectrum, its colour and its envelope, float32 [features].

    `audio` is [samples] at 16 kHz.
    """
    import librosa

    tones = np.abs(librosa.stft(audio, n_fft=N_FFT, hop_length=HOP))  # [bins, frames]
    mel = librosa.feature.melspectrogram(S=tones**2, sr=RATE_HZ, n_mels=48)
    decibels = librosa.power_to_db(mel, ref=max(float(mel.max()), 1e-10), top_db=_FLOOR_DB)
    level = librosa.power_to_db(
        (tones**2).sum(axis=0), ref=max(float((tones**2).sum(axis=0).max()), 1e-10), top_db=_FLOOR_DB
    )
    loud = level >= np.quantile(level, 0.3)
    mfcc = librosa.feature.mfcc(S=decibels, n_mfcc=_MFCCS)[:, loud]
    colour = np.concatenate(
        [
            np.log(librosa.feature.spectral_centroid(S=tones[:, loud] + 1e-8, sr=RATE_HZ)),
            np.log(librosa.feature.spectral_bandwidth(S=tones[:, loud] + 1e-8, sr=RATE_HZ)),
            np.log(librosa.feature.spectral_rolloff(S=tones[:, loud] + 1e-8, sr=RATE_HZ) + 1),
            np.log(librosa.feature.spectral_flatness(S=tones[:, loud] + 1e-8)),
            librosa.feature.spectral_contrast(S=tones[:, loud] + 1e-8, sr=RATE_HZ),
        ]
    )
    steps = np.diff(decibels, axis=1)
    return np.concatenate(
        [
            *(np.concatenate([part.mean(axis=1), part.std(axis=1)]) for part in (mfcc, colour)),
            np.diff(mfcc, axis=1).std(axis=1),
            _envelope(level),
            [
                steps[steps > 0].mean() if (steps > 0).any() else 0.0,
                steps[steps < 0].mean() if (steps < 0).any() else 0.0,
            ],
        ]
    ).astype(np.float32)


def _envelope(level: NDArray[np.float32]) -> NDArray[np.float32]:
    """How notes begin and fade: the mean level in dB at some times after an onset, against the onset's own, and its
    slopes.
    """
    rises = np.maximum(level[2:] - level[:-2], 0)  # [frames - 2], 20 ms apart
    peaks = np.flatnonzero((rises > 2.0) & (rises == _highest(rises, 6)))
    peaks = peaks[peaks + 2 + _AFTER_ONSET[-1] < len(level)]
    slopes = np.diff(level)
    spread = [float(np.quantile(slopes, q)) for q in (0.05, 0.25, 0.5, 0.75, 0.95)] if len(slopes) else [0.0] * 5
    if not len(peaks):
        return np.array([0.0] * len(_AFTER_ONSET) + [0.0] + spread, dtype=np.float32)
    after = np.mean([[level[p + 2 + step] - level[p + 2] for step in _AFTER_ONSET] for p in peaks], axis=0)
    return np.array([*after, len(peaks) / len(level) * 100, *spread], dtype=np.float32)


def _highest(values: NDArray[np.float32], reach: int) -> NDArray[np.float32]:
    from scipy.ndimage import maximum_filter1d

    return maximum_filter1d(values, 2 * reach + 1)


class InstrumentClassifier:
    """A support vector machine on the features; `instruments` are the classes."""

    def __init__(self, examples: NDArray[np.float32], instruments: Sequence[str]):
        """Learns from features [clips, features] and each clip's instrument."""
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler
        from sklearn.svm import SVC

        self.instruments = sorted(set(instruments))
        self._machine: Any = make_pipeline(StandardScaler(), SVC(C=10.0, gamma="scale", class_weight="balanced"))
        self._machine.fit(examples, list(instruments))

    def classify(self, clips: NDArray[np.float32]) -> list[str]:
        """The instrument of each row of features [clips, features]."""
        return [str(name) for name in self._machine.predict(clips)] if len(clips) else []
