"""The Frechet distance between two sets of clips, on an embedding that nobody trained.

The embedding: 48 mel bands (librosa's, 16 kHz, windows of 1024 samples every 320), in dB from -80 to 0 of full scale;
for each second the mean and the standard deviation of every band: 96 numbers a second. It hears spectrum, level,
density and attack, not melody or structure. Distances compare within this project only (not with FAD on VGGish).
"""

import numpy as np
from numpy.typing import NDArray

from musicgen.evaluation.pitch_classes import RATE_HZ

BANDS = 48
N_FFT, HOP = 1024, 320
_A_SECOND = RATE_HZ // HOP
_FLOOR_DB = -80.0


def embed_audio(audio: NDArray[np.float32]) -> NDArray[np.float32]:
    """Float32 [seconds, 96] of `audio` [samples] at 16 kHz; a last part of a second is left out."""
    import librosa

    mel = librosa.feature.melspectrogram(y=audio, sr=RATE_HZ, n_fft=N_FFT, hop_length=HOP, n_mels=BANDS, norm=None)
    decibels = np.maximum(
        librosa.power_to_db(mel / (N_FFT / 4) ** 2, ref=1.0, top_db=None), _FLOOR_DB
    )  # a full-scale sine is 0
    seconds = decibels.shape[1] // _A_SECOND
    windows = decibels[:, : seconds * _A_SECOND].reshape(BANDS, seconds, _A_SECOND)
    return np.concatenate([windows.mean(axis=2), windows.std(axis=2)]).T.astype(np.float32)


def frechet_distance(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    """The Frechet distance between Gaussians fitted to two sets of embeddings [windows, 96] (Heusel et al. 2017, eq.
    6).

    NaN with fewer than two windows in a set. The trace of the root of the product is taken from eigenvalues, as the
    product of two covariances is similar to a positive semidefinite matrix.
    """
    if min(len(one), len(other)) < 2:
        return float("nan")
    a, b = np.asarray(one, dtype=np.float64), np.asarray(other, dtype=np.float64)
    covariance_a, covariance_b = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    values, vectors = np.linalg.eigh(covariance_a)
    root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    product = np.linalg.eigvalsh(root @ covariance_b @ root)
    trace = np.trace(covariance_a) + np.trace(covariance_b) - 2 * np.sqrt(np.maximum(product, 0)).sum()
    return float(max(0.0, np.sum((a.mean(axis=0) - b.mean(axis=0)) ** 2) + trace))
