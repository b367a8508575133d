"""Measures a waveform's peak, loudness and silence, and applies the two gains that may change it.

Samples are never clipped. Where MusicGen's waveform exceeds full scale, the whole clip is scaled down until its peak
fits, as audiocraft's `audio_write(strategy="peak")` does; unlike there, quiet clips are not turned up. The index
column `clipped` records that a clip was scaled down.
"""

import warnings
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SILENCE_DBFS = -60.0
"""A clip whose peak is below this counts as silent."""

FULL_SCALE = 32767 / 32768
"""The largest sample that 16 bits can hold."""

TRUE_PEAK_CEILING_DBTP = -1.0
"""The largest true peak that loudness normalization produces (EBU R 128 allows -1 dBTP)."""

_GATING_BLOCK_S = 0.4  # ITU-R BS.1770-4: loudness is defined on blocks of 400 ms
_OVERSAMPLING = 4


@dataclass(frozen=True, slots=True)
class Levels:
    """Measured levels. `peak_dbfs` is None for digital silence, `loudness_lufs` where it is not defined."""

    peak_dbfs: float | None
    loudness_lufs: float | None
    silent: bool


def measure_levels(audio: NDArray[np.float32], sample_rate: int) -> Levels:
    """Measure a waveform [channels, samples]: sample peak in dBFS, integrated loudness in LUFS (ITU-R BS.1770-4)."""
    peak = _sample_peak(audio)
    peak_dbfs = None if peak == 0.0 else round(float(20 * np.log10(peak)), 4)
    silent = peak_dbfs is None or peak_dbfs < SILENCE_DBFS
    return Levels(peak_dbfs, None if silent else _integrated_loudness(audio, sample_rate), silent)


def limit_peak(audio: NDArray[np.float32]) -> tuple[NDArray[np.float32], bool]:
    """Scale a waveform down to full scale if it exceeds it. Returns the waveform, and whether it was scaled."""
    peak = _sample_peak(audio)
    if peak <= 1.0:
        return audio, False
    return (audio * np.float32(FULL_SCALE / peak)).astype(np.float32, copy=False), True


def normalize_loudness(audio: NDArray[np.float32], sample_rate: int, loudness_lufs: float) -> NDArray[np.float32]:
    """Bring a waveform, [channels, samples], to a loudness, as far as its true peak stays below -1 dBTP.

    Where loudness is not defined (silence, clips shorter than 0.4 s) the waveform is returned unchanged.
    """
    loudness = measure_levels(audio, sample_rate).loudness_lufs
    if loudness is None:
        return audio
    gain = 10 ** ((loudness_lufs - loudness) / 20)
    headroom = 10 ** (TRUE_PEAK_CEILING_DBTP / 20) / measure_true_peak(audio, sample_rate)
    return (audio * np.float32(min(gain, headroom))).astype(np.float32, copy=False)


def measure_true_peak(audio: NDArray[np.float32], sample_rate: int) -> float:
    """Measure the peak, also between the samples, by fourfold oversampling (ITU-R BS.1770-4, annex 2)."""
    import soxr

    oversampled = soxr.resample(np.ascontiguousarray(audio.T), sample_rate, sample_rate * _OVERSAMPLING)
    return max(_sample_peak(audio), _sample_peak(oversampled))


def _sample_peak(audio: NDArray[np.float32]) -> float:
    return float(np.max(np.abs(audio))) if audio.size else 0.0


def _integrated_loudness(audio: NDArray[np.float32], sample_rate: int) -> float | None:
    import pyloudnorm

    if audio.shape[-1] < _GATING_BLOCK_S * sample_rate:
        return None
    with warnings.catch_warnings(), np.errstate(divide="ignore", invalid="ignore"):
        warnings.simplefilter("ignore")
        loudness = pyloudnorm.Meter(sample_rate).integrated_loudness(audio.T.astype(np.float64))
    return round(float(loudness), 4) if np.isfinite(loudness) else None
