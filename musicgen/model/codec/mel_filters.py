"""Triangular filters on the mel scale of the Auditory Toolbox (Slaney 1998): linear to 1 kHz, logarithmic from there.

Their bits are those of librosa's filters, which the codec's weights were trained with; a test compares them. They are
computed here because librosa imports numba, which takes a second at every start.
"""

import numpy as np
from numpy.typing import NDArray

_HZ_PER_MEL = 200.0 / 3  # below the break
_BREAK_HZ = 1000.0
_BREAK_MEL = _BREAK_HZ / _HZ_PER_MEL
_LOG_STEP = np.log(6.4) / 27.0  # of the frequency for each mel above the break


def make_mel_filters(rate: int, n_fft: int, n_mels: int) -> NDArray[np.float32]:
    """Compute filters of height one, [n_mels, n_fft // 2 + 1], from 0 Hz to half the rate."""
    top_mel = _to_mels(np.array([rate / 2]))[0]
    corners = _to_frequencies(
        np.linspace(0.0, top_mel, n_mels + 2)
    )  # Hz; a filter reaches from one to the next but one
    widths = np.diff(corners)[:, None]
    distances = np.subtract.outer(corners, np.fft.rfftfreq(n_fft, 1.0 / rate))  # [n_mels + 2, bins]
    rising, falling = -distances[:-2] / widths[:-1], distances[2:] / widths[1:]
    return np.maximum(0, np.minimum(rising, falling)).astype(np.float32)


def _to_mels(frequencies: NDArray[np.float64]) -> NDArray[np.float64]:
    mels = frequencies / _HZ_PER_MEL
    is_above = frequencies >= _BREAK_HZ
    mels[is_above] = _BREAK_MEL + np.log(frequencies[is_above] / _BREAK_HZ) / _LOG_STEP
    return mels


def _to_frequencies(mels: NDArray[np.float64]) -> NDArray[np.float64]:
    frequencies = _HZ_PER_MEL * mels
    is_above = mels >= _BREAK_MEL
    frequencies[is_above] = _BREAK_HZ * np.exp(_LOG_STEP * (mels[is_above] - _BREAK_MEL))
    return frequencies
