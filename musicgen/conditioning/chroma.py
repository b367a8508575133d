"""The quantised chromagram: all that MusicGen hears of a melody (Copet et al. 2023, section 3.3).

Which of the twelve pitch classes is strongest in each 4096 samples, and nothing else: an information bottleneck, so
that the model follows the tune and not the recording. The definition is audiocraft's `ChromaExtractor` and
transformers' `MusicgenMelodyFeatureExtractor` (both need torchaudio; this does not). It is computed in float64 with
pocketfft, whose result depends neither on threads nor on what else runs: a near tie between two pitch classes falls the
same way each time.
"""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

RATE_HZ = 32_000
N_FFT = 1 << 14  # also the window's length: half a second
HOP = 1 << 12
N_CHROMA = 12
CHUNK_S = 30.0  # what the published models were trained with; transformers' `chunk_length`

_EPS = 1e-6  # below this a frame is not scaled up (torch.nn.functional.normalize's eps)
_FRAMES_AT_ONCE = 32  # 4 MB of spectrum


def strongest_pitch_classes(
    audio: NDArray[np.float32], n_chroma: int = N_CHROMA, n_fft: int = N_FFT, hop: int = HOP
) -> NDArray[np.int8]:
    """The strongest pitch class (0 = C) of every frame of `audio` [samples] at 32 kHz, mono: int8 [1 + samples // hop].

    Silence gives 0, as the argmax of equal values does.
    """
    return compute_chromagram(audio, n_chroma, n_fft, hop).argmax(axis=1).astype(np.int8)


def compute_chromagram(
    audio: NDArray[np.float32], n_chroma: int = N_CHROMA, n_fft: int = N_FFT, hop: int = HOP
) -> NDArray[np.float64]:
    """The chromagram before quantisation: float64 [frames, n_chroma], each frame's largest value 1 (or near silence,
    less).

    `audio` is [samples] at 32 kHz, mono. Shorter than a window, it is centred in one of silence; then half a window is
    reflected at both ends, so that frame t is centred at sample t * hop.
    """
    signal = np.asarray(audio, dtype=np.float64)
    if (missing := n_fft - len(signal)) > 0:
        signal = np.pad(signal, (missing // 2, missing - missing // 2))
    signal = np.pad(signal, n_fft // 2, mode="reflect")
    windows = np.lib.stride_tricks.sliding_window_view(signal, n_fft)[::hop]  # [frames, n_fft], a view
    window, filters = _window(n_fft), _filters(n_fft, n_chroma)
    rows = []
    for start in range(0, len(windows), _FRAMES_AT_ONCE):
        spectrum = np.fft.rfft(windows[start : start + _FRAMES_AT_ONCE] * window, axis=1)  # [frames, n_fft / 2 + 1]
        # einsum and not a BLAS product: the order of its sums does not depend on the number of threads.
        rows.append(np.einsum("tf,cf->tc", spectrum.real**2 + spectrum.imag**2, filters))
    raw = np.concatenate(rows)
    return raw / np.maximum(raw.max(axis=1, keepdims=True), _EPS)


@lru_cache(maxsize=4)
def _window(n_fft: int) -> NDArray[np.float64]:
    """A periodic Hann window of unit energy."""
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(n_fft) / n_fft)
    return window / np.sqrt(np.sum(window**2))


@lru_cache(maxsize=4)
def _filters(n_fft: int, n_chroma: int) -> NDArray[np.float64]:
    """librosa's chroma filter bank [n_chroma, n_fft / 2 + 1], A4 = 440 Hz exactly."""
    from librosa import filters  # type: ignore[attr-defined]  # a lazy module

    return np.asarray(filters.chroma(sr=RATE_HZ, n_fft=n_fft, tuning=0, n_chroma=n_chroma), dtype=np.float64)
