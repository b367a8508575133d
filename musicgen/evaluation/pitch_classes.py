"""Finds the strongest pitch classes with librosa, with shorter frames than the model's melody conditioning.

It shares no code with that conditioning, so that an error there cannot hide here.
"""

import numpy as np
from numpy.typing import NDArray

RATE_HZ = 16_000  # of all audio that features are extracted from
N_FFT = 4096  # 256 ms
HOP = 1024  # 64 ms

_SILENT = 1e-5  # of the clip's loud frames' energy: -50 dB
_CLEAR = 0.03  # -15 dB: in a fading tail, accompaniment or codec noise may well be stronger
_LOUD_QUANTILE = 0.9


def compute_chromagram(audio: NDArray[np.float32]) -> NDArray[np.float32]:
    """Compute the energy of the twelve pitch classes (0 = C): float32 [frames, 12].

    `audio` is [samples] at 16 kHz. A4 is 440 Hz.
    """
    import librosa

    chroma = librosa.feature.chroma_stft(y=audio, sr=RATE_HZ, n_fft=N_FFT, hop_length=HOP, norm=None, tuning=0.0)
    return np.ascontiguousarray(chroma.T, dtype=np.float32)


def strongest_classes(chroma: NDArray[np.float32]) -> NDArray[np.int8]:
    """Return the strongest pitch class of each frame of a chromagram [frames, 12]; -1 for silent frames."""
    return np.where(_frames_above(chroma, _SILENT), chroma.argmax(axis=1), -1).astype(np.int8)


def clear_classes(chroma: NDArray[np.float32]) -> NDArray[np.int8]:
    """Return the strongest pitch class of each frame; -1 for silent frames and where the melody has faded.

    In the other frames another clip of the same melody is expected to have the same class.
    """
    return np.where(_frames_above(chroma, _CLEAR), chroma.argmax(axis=1), -1).astype(np.int8)


def _frames_above(chroma: NDArray[np.float32], share: float) -> NDArray[np.bool_]:
    energy = chroma.sum(axis=1)
    loud_energy = np.quantile(energy, _LOUD_QUANTILE) if len(energy) else 0.0
    return energy > max(share * loud_energy, 1e-9)


def class_agreement(asked: NDArray[np.int8], measured: NDArray[np.int8]) -> float:
    """Return the share of the frames that sound in `asked` where `measured` has the same class; NaN if none sounds.

    Frames that are silent in `measured`, or beyond its end, do not agree.
    """
    voiced = asked >= 0
    if not voiced.any():
        return float("nan")
    missing = len(asked) - len(measured)
    measured = np.pad(measured, (0, missing), constant_values=-2) if missing > 0 else measured[: len(asked)]
    return float((asked == measured)[voiced].mean())
