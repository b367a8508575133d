"""Which pitch class sounds when, heard by librosa: a finer clock than the model's own melody conditioning, and other
code.
"""

import numpy as np
from numpy.typing import NDArray

RATE_HZ = 16_000  # what every judge hears
N_FFT = 4096  # 256 ms
HOP = 1024  # 64 ms

_SILENT = 1e-5  # of the clip's loud frames' energy: -50 dB
_CLEAR = 0.03  # -15 dB: in a fading tail, accompaniment or codec noise may well be stronger
_LOUD_QUANTILE = 0.9


def compute_chromagram(audio: NDArray[np.float32]) -> NDArray[np.float32]:
    """Energy of the twelve pitch classes (0 = C): float32 [frames, 12] of `audio` [samples] at 16 kHz. A4 is 440 Hz."""
    import librosa

    chroma = librosa.feature.chroma_stft(y=audio, sr=RATE_HZ, n_fft=N_FFT, hop_length=HOP, norm=None, tuning=0.0)
    return np.ascontiguousarray(chroma.T, dtype=np.float32)


def strongest_classes(chroma: NDArray[np.float32]) -> NDArray[np.int8]:
    """The strongest pitch class of each frame of a chromagram [frames, 12]; -1 where nothing sounds."""
    return np.where(_frames_above(chroma, _SILENT), chroma.argmax(axis=1), -1).astype(np.int8)


def clear_classes(chroma: NDArray[np.float32]) -> NDArray[np.int8]:
    """As `bins`, and -1 also where a tune has faded: the frames in which another clip is expected to agree."""
    return np.where(_frames_above(chroma, _CLEAR), chroma.argmax(axis=1), -1).astype(np.int8)


def _frames_above(chroma: NDArray[np.float32], part: float) -> NDArray[np.bool_]:
    energy = chroma.sum(axis=1)
    loud = np.quantile(energy, _LOUD_QUANTILE) if len(energy) else 0.0
    return energy > max(part * loud, 1e-9)


def class_agreement(asked: NDArray[np.int8], heard: NDArray[np.int8]) -> float:
    """The part of the frames that sound in `asked` where `heard` has the same class; NaN if none sounds.

    A frame that is silent in `heard`, or that it is too short for, is a miss.
    """
    voiced = asked >= 0
    if not voiced.any():
        return float("nan")
    missing = len(asked) - len(heard)
    heard = np.pad(heard, (0, missing), constant_values=-2) if missing > 0 else heard[: len(asked)]
    return float((asked == heard)[voiced].mean())
