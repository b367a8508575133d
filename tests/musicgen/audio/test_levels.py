"""Levels: the measures and the two gains."""

import warnings

import numpy as np
import pytest

from musicgen.audio import limit_peak, measure_levels, normalize_loudness
from musicgen.audio.levels import measure_true_peak

RATE = 32000


def sine(amplitude: float, seconds: float = 2.0, hz: float = 997.0, channels: int = 1) -> np.ndarray:
    time = np.arange(int(seconds * RATE)) / RATE
    return np.repeat((amplitude * np.sin(2 * np.pi * hz * time)).astype(np.float32)[None], channels, axis=0)


def test_loudness_of_the_standards_own_tone():
    # ITU-R BS.1770-4: a 997 Hz sine at 0 dBFS in one channel reads -3.01 LUFS; two channels add 3 dB
    assert measure_levels(sine(1.0), RATE).loudness_lufs == pytest.approx(-3.01, abs=0.1)
    assert measure_levels(sine(1.0, channels=2), RATE).loudness_lufs == pytest.approx(0.0, abs=0.1)
    assert measure_levels(sine(0.1), RATE).loudness_lufs == pytest.approx(-23.01, abs=0.1)


def test_peak():
    assert measure_levels(sine(0.5), RATE).peak_dbfs == pytest.approx(-6.02, abs=0.01)


@pytest.mark.parametrize(
    ("audio", "peak_dbfs", "silent"),
    [(np.zeros((1, RATE), np.float32), None, True), (sine(0.0005), -66.02, True), (sine(0.002), -53.98, False)],
    ids=["zeros", "below -60 dBFS", "quiet"],
)
def test_silence(audio: np.ndarray, peak_dbfs: float | None, silent: bool):
    levels = measure_levels(audio, RATE)
    assert levels.silent is silent
    assert levels.peak_dbfs == (None if peak_dbfs is None else pytest.approx(peak_dbfs, abs=0.01))
    assert (levels.loudness_lufs is None) is silent


@pytest.mark.parametrize("seconds", [0.02, 0.39])
def test_short_clips_have_no_loudness_and_give_no_warning(seconds: float):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert measure_levels(sine(0.5, seconds), RATE).loudness_lufs is None
        measure_levels(np.zeros((1, 2 * RATE), np.float32), RATE)
        measure_levels(sine(1.5, 0.5), RATE)


def test_only_waveforms_over_full_scale_are_scaled():
    fits, clipped = limit_peak(sine(1.0))
    assert not clipped
    assert np.array_equal(fits, sine(1.0))
    loud = sine(1.7)
    safe, clipped = limit_peak(loud)
    assert clipped
    assert np.abs(safe).max() <= 32767 / 32768 + 1e-7
    assert np.allclose(safe / np.abs(safe).max(), loud / np.abs(loud).max(), atol=1e-6)  # scaled, not cut


def test_normalization_reaches_its_target_where_there_is_room():
    louder = normalize_loudness(sine(0.05), RATE, -16.0)
    assert measure_levels(louder, RATE).loudness_lufs == pytest.approx(-16.0, abs=0.05)
    quieter = normalize_loudness(sine(0.9), RATE, -30.0)
    assert measure_levels(quieter, RATE).loudness_lufs == pytest.approx(-30.0, abs=0.05)


def test_normalization_stops_at_the_true_peak():
    # a burst in near silence cannot be loud without clipping
    audio = sine(0.001, 3.0)
    audio[:, :200] = sine(0.9, 200 / RATE)
    loud = normalize_loudness(audio, RATE, -5.0)
    assert 20 * np.log10(measure_true_peak(loud, RATE)) == pytest.approx(-1.0, abs=0.1)
    assert measure_levels(loud, RATE).loudness_lufs < -5.0


def test_the_true_peak_lies_between_samples():
    time = np.arange(RATE) / RATE
    audio = np.sin(2 * np.pi * RATE / 4 * time + np.pi / 4).astype(np.float32)[
        None
    ]  # sampled only at 0.707 of its peak
    assert np.abs(audio).max() == pytest.approx(0.7071, abs=1e-3)
    assert measure_true_peak(audio, RATE) == pytest.approx(1.0, abs=0.05)


def test_silence_is_not_turned_up():
    assert np.array_equal(
        normalize_loudness(np.zeros((1, RATE), np.float32), RATE, -16.0), np.zeros((1, RATE), np.float32)
    )
