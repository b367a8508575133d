"""Computes the quantized chromagram, MusicGen's melody condition (Copet et al. 2023, section 3.3).

It holds only which of the twelve pitch classes is strongest in each 4096 samples: an information bottleneck, so that
the model follows the melody and not the recording. The definition is that of audiocraft's `ChromaExtractor` and
transformers' `MusicgenMelodyFeatureExtractor` (both need torchaudio; this module does not). It is computed in float64
with pocketfft, whose result does not depend on threads or machine load: a near tie between two pitch classes is
resolved the same way each time.
"""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

RATE_HZ = 32_000
N_FFT = 1 << 14  # also the window's length: half a second
HOP = 1 << 12
N_CHROMA = 12
CHUNK_S = 30.0  # the length that the published models were trained with; transformers' `chunk_length`

_EPSILON = 1e-6  # frames below this are not scaled up (the `eps` of torch.nn.functional.normalize)
_FRAMES_AT_ONCE = 32  # 4 MB of spectrum


def strongest_pitch_classes(
    audio: NDArray[np.float32], n_chroma: int = N_CHROMA, n_fft: int = N_FFT, hop: int = HOP
) -> NDArray[np.int8]:
    """Find the strongest pitch class (0 = C) of every frame: int8 [1 + samples // hop].

    `audio` is [samples], mono at 32 kHz. Silence gives 0, the argmax of equal values.
    """
    return compute_chromagram(audio, n_chroma, n_fft, hop).argmax(axis=1).astype(np.int8)


def compute_chromagram(
    audio: NDArray[np.float32], n_chroma: int = N_CHROMA, n_fft: int = N_FFT, hop: int = HOP
) -> NDArray[np.float64]:
    """Compute the chromagram before quantization: float64 [frames, n_chroma].

    Each frame's largest value is 1, or less near silence. `audio` is [samples], mono at 32 kHz. Audio shorter than a
    window is centered in a window of silence; then half a window is reflected at both ends, so that frame t is centered
    at sample t * hop.
    """
    signal = np.asarray(audio, dtype=np.float64)
    if (padding := n_fft - len(signal)) > 0:
        signal = np.pad(signal, (padding // 2, padding - padding // 2))
    signal = np.pad(signal, n_fft // 2, mode="reflect")
    windows = np.lib.stride_tricks.sliding_window_view(signal, n_fft)[::hop]  # [frames, n_fft], a view
    window, filters = _hann_window(n_fft), _chroma_filters(n_fft, n_chroma)
    energies = []
    for start in range(0, len(windows), _FRAMES_AT_ONCE):
        spectrum = np.fft.rfft(windows[start : start + _FRAMES_AT_ONCE] * window, axis=1)  # [frames, n_fft / 2 + 1]
        # einsum instead of a BLAS product, because its order of summation does not depend on the number of threads.
        energies.append(np.einsum("tf,cf->tc", spectrum.real**2 + spectrum.imag**2, filters))
    energy = np.concatenate(energies)
    return energy / np.maximum(energy.max(axis=1, keepdims=True), _EPSILON)


@lru_cache(maxsize=4)
def _hann_window(n_fft: int) -> NDArray[np.float64]:
    """Return a periodic Hann window of unit energy."""
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(n_fft) / n_fft)
    return window / np.sqrt(np.sum(window**2))


@lru_cache(maxsize=4)
def _chroma_filters(n_fft: int, n_chroma: int) -> NDArray[np.float64]:
    """Return librosa's chroma filter bank [n_chroma, n_fft / 2 + 1], with A4 = 440 Hz exactly."""
    from librosa import filters  # type: ignore[attr-defined]  # a lazy module

    return np.asarray(filters.chroma(sr=RATE_HZ, n_fft=n_fft, tuning=0, n_chroma=n_chroma), dtype=np.float64)
