"""The spectrogram shows tones at their frequency and time."""

import io

import librosa
import numpy as np
import pytest
from matplotlib.image import imread

from musicgen.audio.spectrogram import PIXELS, draw_spectrogram, log_mel

RATE = 32000


def tone(hz: float, seconds: float = 1.0, amplitude: float = 0.5) -> np.ndarray:
    return (amplitude * np.sin(2 * np.pi * hz * np.arange(int(seconds * RATE)) / RATE)).astype(np.float32)[None]


def brightness(audio: np.ndarray) -> np.ndarray:
    """The picture of a clip as [height, width] in 0 .. 1."""
    picture = imread(io.BytesIO(draw_spectrogram(audio, RATE)))
    assert picture.shape[1::-1] == PIXELS
    return picture[..., :3].mean(axis=2)


@pytest.mark.parametrize("hz", [220, 1000, 6000])
def test_a_tone_is_brightest_at_its_pitch(hz: float):
    levels = log_mel(np.concatenate([tone(hz), tone(hz)]), RATE)
    centres = librosa.mel_frequencies(levels.shape[0] + 2, fmin=0, fmax=RATE / 2)[1:-1]
    assert np.argmax(levels[:, 10]) == np.argmin(np.abs(centres - hz))


def test_the_picture_is_higher_for_a_higher_tone_and_later_for_a_later_one():
    def centre(audio: np.ndarray) -> np.ndarray:
        inside = brightness(audio)[10:180, 80:860]  # without the axes
        return np.array([np.average(place, weights=inside > 0.5) for place in np.indices(inside.shape)])

    silence = np.zeros((1, RATE), np.float32)
    early_low, late_high = np.concatenate([tone(200), silence], 1), np.concatenate([silence, tone(5000)], 1)
    down, right = centre(early_low) - centre(late_high)
    assert down > 40
    assert right < -100


def test_silence_is_dark_and_clips_of_any_length_have_a_picture():
    assert brightness(np.zeros((1, RATE), np.float32))[10:180, 80:860].max() < 0.2
    assert brightness(tone(440))[10:180, 80:860].max() > 0.6
    assert log_mel(np.zeros((2, 0), np.float32), RATE).shape[1] > 0
    assert draw_spectrogram(tone(440, 0.001), RATE).startswith(b"\x89PNG")
    assert 600 < log_mel(tone(440, 40), RATE).shape[1] <= 1200


def test_equal_clips_have_equal_pictures():
    assert draw_spectrogram(tone(440), RATE) == draw_spectrogram(tone(440), RATE)
