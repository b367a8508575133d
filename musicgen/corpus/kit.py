"""Renders the drum kit: a kick, a snare and a hi-hat made of sine sweeps and filtered noise."""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from musicgen.corpus.score import HAT, KICK, SNARE
from musicgen.corpus.timbre import RATE_HZ


@lru_cache(maxsize=8)
def render_hit(drum: float) -> NDArray[np.float32]:
    """Return one stroke of a drum (score.KICK, SNARE or HAT) at RATE_HZ: float32, peak 1, read-only."""
    sound = {KICK: _render_kick, SNARE: _render_snare, HAT: _render_hat}[drum]()
    sound = (sound / np.abs(sound).max()).astype(np.float32)
    sound.setflags(write=False)
    return sound


def _time_axis(seconds: float) -> NDArray[np.float64]:
    return np.arange(round(seconds * RATE_HZ)) / RATE_HZ


def _band_noise(samples: int, low_hz: float, high_hz: float, seed: int) -> NDArray[np.float64]:
    spectrum = np.fft.rfft(np.random.default_rng(seed).standard_normal(samples))
    frequencies_hz = np.fft.rfftfreq(samples, 1 / RATE_HZ)
    return np.fft.irfft(np.where((frequencies_hz >= low_hz) & (frequencies_hz <= high_hz), spectrum, 0), samples)


def _render_kick() -> NDArray[np.float64]:
    time_s = _time_axis(0.22)
    cycles = 48 * time_s + 110 * 0.03 * (1 - np.exp(-time_s / 0.03))  # from 158 Hz down to 48
    click = 0.5 * _band_noise(len(time_s), 500, 4000, 1) * np.exp(-time_s / 0.004)
    return np.sin(2 * np.pi * cycles) * np.exp(-time_s / 0.07) + click


def _render_snare() -> NDArray[np.float64]:
    time_s = _time_axis(0.2)
    body = 0.5 * np.sin(2 * np.pi * (170 * time_s + 2 * (1 - np.exp(-time_s / 0.02)))) * np.exp(-time_s / 0.04)
    return body + _band_noise(len(time_s), 1200, 7500, 2) * np.exp(-time_s / 0.055)


def _render_hat() -> NDArray[np.float64]:
    time_s = _time_axis(0.08)
    return _band_noise(len(time_s), 5000, 7900, 3) * np.exp(-time_s / 0.018)
