"""Peak, loudness and silence of a waveform, and the two gains that may change it.

A clip is never clipped here. MusicGen's waveform now and then exceeds full scale; the whole clip is then scaled down
until its peak fits, as audiocraft's `audio_write(strategy="peak")` does, and left alone otherwise: unlike there, quiet
clips are not turned up. `Levels.clipped` remembers that the model went over.
"""

import warnings
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SILENCE_DBFS = -60.0
"""A clip whose peak lies below this counts as silent."""

FULL_SCALE = 32767 / 32768
"""The largest sample that 16 bits hold."""

TRUE_PEAK_CEILING_DBTP = -1.0
"""Where loudness normalisation stops turning up (EBU R 128 allows a true peak of -1 dBTP)."""

_GATING_BLOCK_S = 0.4  # ITU-R BS.1770-4: loudness is defined on blocks of 400 ms
_OVERSAMPLING = 4


@dataclass(frozen=True, slots=True)
class Levels:
    """What was measured. `peak_dbfs` is None for digital silence, `loudness_lufs` where it is not defined."""

    peak_dbfs: float | None
    loudness_lufs: float | None
    silent: bool


def measure_levels(audio: NDArray[np.float32], rate: int) -> Levels:
    """Measure a waveform [channels, samples]: sample peak in dBFS, integrated loudness in LUFS (ITU-R BS.1770-4)."""
    peak = _peak(audio)
    peak_dbfs = None if peak == 0.0 else round(float(20 * np.log10(peak)), 4)
    silent = peak_dbfs is None or peak_dbfs < SILENCE_DBFS
    return Levels(peak_dbfs, None if silent else _loudness(audio, rate), silent)


def limit_peak(audio: NDArray[np.float32]) -> tuple[NDArray[np.float32], bool]:
    """The waveform scaled to fit full scale if it exceeds it, and whether it did."""
    peak = _peak(audio)
    if peak <= 1.0:
        return audio, False
    return (audio * np.float32(FULL_SCALE / peak)).astype(np.float32, copy=False), True


def normalize_loudness(audio: NDArray[np.float32], rate: int, loudness_lufs: float) -> NDArray[np.float32]:
    """Bring a waveform, [channels, samples], to a loudness, as far as its true peak stays below -1 dBTP.

    Where loudness is not defined (silence, clips shorter than 0.4 s) the waveform comes back as it is.
    """
    loudness = measure_levels(audio, rate).loudness_lufs
    if loudness is None:
        return audio
    gain = 10 ** ((loudness_lufs - loudness) / 20)
    headroom = 10 ** (TRUE_PEAK_CEILING_DBTP / 20) / measure_true_peak(audio, rate)
    return (audio * np.float32(min(gain, headroom))).astype(np.float32, copy=False)


def measure_true_peak(audio: NDArray[np.float32], rate: int) -> float:
    """The peak between the samples too, by fourfold oversampling (ITU-R BS.1770-4, annex 2)."""
    import soxr

    over = soxr.resample(np.ascontiguousarray(audio.T), rate, rate * _OVERSAMPLING)
    return max(_peak(audio), _peak(over))


def _peak(audio: NDArray[np.float32]) -> float:
    return float(np.max(np.abs(audio))) if audio.size else 0.0


def _loudness(audio: NDArray[np.float32], rate: int) -> float | None:
    import pyloudnorm

    if audio.shape[-1] < _GATING_BLOCK_S * rate:
        return None
    with warnings.catch_warnings(), np.errstate(divide="ignore", invalid="ignore"):
        warnings.simplefilter("ignore")
        loudness = pyloudnorm.Meter(rate).integrated_loudness(audio.T.astype(np.float64))
    return round(float(loudness), 4) if np.isfinite(loudness) else None
