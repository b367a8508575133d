"""Computes the Frechet distance between two sets of clips, on an embedding that involves no training.

The embedding is computed from 48 mel bands (librosa's, 16 kHz, windows of 1024 samples every 320), in dB from -80 to 0
of full scale: the mean and the standard deviation of every band in each second, 96 numbers a second. It represents
spectrum, level, density and attack, not melody or structure. Distances can be compared only within this project, not
with FAD on VGGish.
"""

import numpy as np
from numpy.typing import NDArray

from musicgen.evaluation.pitch_classes import RATE_HZ

BANDS = 48
N_FFT, HOP = 1024, 320
_FRAMES_PER_S = RATE_HZ // HOP
_FLOOR_DB = -80.0


def embed_audio(audio: NDArray[np.float32]) -> NDArray[np.float32]:
    """Embed `audio` [samples] at 16 kHz: float32 [seconds, 96], without a last part of a second."""
    import librosa

    mel_power = librosa.feature.melspectrogram(
        y=audio, sr=RATE_HZ, n_fft=N_FFT, hop_length=HOP, n_mels=BANDS, norm=None
    )
    # Normalized so that a full-scale sine is 0 dB.
    decibels = np.maximum(librosa.power_to_db(mel_power / (N_FFT / 4) ** 2, ref=1.0, top_db=None), _FLOOR_DB)
    seconds = decibels.shape[1] // _FRAMES_PER_S
    windows = decibels[:, : seconds * _FRAMES_PER_S].reshape(BANDS, seconds, _FRAMES_PER_S)
    return np.concatenate([windows.mean(axis=2), windows.std(axis=2)]).T.astype(np.float32)


def frechet_distance(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    """Compute the distance between Gaussians fitted to two sets of embeddings [windows, 96].

    The formula is equation 6 of Heusel et al. 2017. Returns NaN for a set of fewer than two windows. The trace of the
    root of the product is computed from eigenvalues, since the product of two covariances is similar to a positive
    semidefinite matrix.
    """
    if min(len(one), len(other)) < 2:
        return float("nan")
    first, second = np.asarray(one, dtype=np.float64), np.asarray(other, dtype=np.float64)
    first_covariance, second_covariance = np.cov(first, rowvar=False), np.cov(second, rowvar=False)
    eigenvalues, eigenvectors = np.linalg.eigh(first_covariance)
    root = (eigenvectors * np.sqrt(np.maximum(eigenvalues, 0))) @ eigenvectors.T
    product = np.linalg.eigvalsh(root @ second_covariance @ root)
    trace = np.trace(first_covariance) + np.trace(second_covariance) - 2 * np.sqrt(np.maximum(product, 0)).sum()
    return float(max(0.0, np.sum((first.mean(axis=0) - second.mean(axis=0)) ** 2) + trace))
