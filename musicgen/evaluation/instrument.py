"""Classifies the lead instrument of a clip, with a small classifier trained on originals of the corpus only."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from musicgen.evaluation.pitch_classes import RATE_HZ

HOP = 160  # 10 ms
N_FFT = 1024
_MFCCS = 20
_FRAMES_AFTER_ONSET = (0, 2, 4, 8, 12, 18, 26, 36)  # frames: up to 0.36 s
_FLOOR_DB = 60.0


def instrument_features(audio: NDArray[np.float32]) -> NDArray[np.float32]:
    """Compute the classifier's features, float32 [features], of `audio` [samples] at 16 kHz.

    They describe the spectrum, its shape and the envelope of the notes.
    """
    import librosa

    magnitudes = np.abs(librosa.stft(audio, n_fft=N_FFT, hop_length=HOP))  # [bins, frames]
    mel_power = librosa.feature.melspectrogram(S=magnitudes**2, sr=RATE_HZ, n_mels=48)
    decibels = librosa.power_to_db(mel_power, ref=max(float(mel_power.max()), 1e-10), top_db=_FLOOR_DB)
    level_db = librosa.power_to_db(
        (magnitudes**2).sum(axis=0), ref=max(float((magnitudes**2).sum(axis=0).max()), 1e-10), top_db=_FLOOR_DB
    )
    loud_frames = level_db >= np.quantile(level_db, 0.3)
    mfcc = librosa.feature.mfcc(S=decibels, n_mfcc=_MFCCS)[:, loud_frames]
    spectral_shape = np.concatenate(
        [
            np.log(librosa.feature.spectral_centroid(S=magnitudes[:, loud_frames] + 1e-8, sr=RATE_HZ)),
            np.log(librosa.feature.spectral_bandwidth(S=magnitudes[:, loud_frames] + 1e-8, sr=RATE_HZ)),
            np.log(librosa.feature.spectral_rolloff(S=magnitudes[:, loud_frames] + 1e-8, sr=RATE_HZ) + 1),
            np.log(librosa.feature.spectral_flatness(S=magnitudes[:, loud_frames] + 1e-8)),
            librosa.feature.spectral_contrast(S=magnitudes[:, loud_frames] + 1e-8, sr=RATE_HZ),
        ]
    )
    changes = np.diff(decibels, axis=1)
    return np.concatenate(
        [
            *(np.concatenate([values.mean(axis=1), values.std(axis=1)]) for values in (mfcc, spectral_shape)),
            np.diff(mfcc, axis=1).std(axis=1),
            _envelope_features(level_db),
            [
                changes[changes > 0].mean() if (changes > 0).any() else 0.0,
                changes[changes < 0].mean() if (changes < 0).any() else 0.0,
            ],
        ]
    ).astype(np.float32)


def _envelope_features(level_db: NDArray[np.float32]) -> NDArray[np.float32]:
    """Describe how notes begin and decay: mean levels at times after an onset, relative to the onset's, and slopes.

    `level_db` is [frames] of 10 ms.
    """
    rises = np.maximum(level_db[2:] - level_db[:-2], 0)  # [frames - 2], 20 ms apart
    peaks = np.flatnonzero((rises > 2.0) & (rises == _sliding_maximum(rises, 6)))
    peaks = peaks[peaks + 2 + _FRAMES_AFTER_ONSET[-1] < len(level_db)]
    slopes = np.diff(level_db)
    spread = (
        [float(np.quantile(slopes, quantile)) for quantile in (0.05, 0.25, 0.5, 0.75, 0.95)]
        if len(slopes)
        else [0.0] * 5
    )
    if not len(peaks):
        return np.array([0.0] * len(_FRAMES_AFTER_ONSET) + [0.0] + spread, dtype=np.float32)
    after = np.mean(
        [[level_db[peak + 2 + step] - level_db[peak + 2] for step in _FRAMES_AFTER_ONSET] for peak in peaks], axis=0
    )
    return np.array([*after, len(peaks) / len(level_db) * 100, *spread], dtype=np.float32)


def _sliding_maximum(values: NDArray[np.float32], reach: int) -> NDArray[np.float32]:
    from scipy.ndimage import maximum_filter1d

    return maximum_filter1d(values, 2 * reach + 1)


class InstrumentClassifier:
    """A support vector machine on `instrument_features`; `instruments` are the classes."""

    def __init__(self, examples: NDArray[np.float32], instruments: Sequence[str]):
        """Train on features [clips, features] and each clip's instrument."""
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler
        from sklearn.svm import SVC

        self.instruments = sorted(set(instruments))
        self._pipeline: Any = make_pipeline(StandardScaler(), SVC(C=10.0, gamma="scale", class_weight="balanced"))
        self._pipeline.fit(examples, list(instruments))

    def classify(self, clips: NDArray[np.float32]) -> list[str]:
        """Return the instrument of each row of features [clips, features]."""
        return [str(name) for name in self._pipeline.predict(clips)] if len(clips) else []
