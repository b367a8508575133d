"""The chromagram is transformers' (and audiocraft's), to 1e-5 before it is quantised, and exactly after.

transformers' `MusicgenMelodyFeatureExtractor` needs torchaudio, which has no build for our torch. It uses one thing of
it, `torchaudio.transforms.Spectrogram`; so the tests put a stand-in there, which is that class's documented definition
over `torch.stft` (Hann window, reflected centre padding, divided by the window's root energy, squared magnitude).
Everything else that runs is transformers' own code: padding, truncation, filter bank, normalisation, argmax.
"""

from importlib import import_module
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from musicgen.conditioning import chroma
from tests.musicgen.conditioning.music import TUNE, decode_bytes, encoded, tune

# By its full name: the package hides the class where torchaudio is missing.
reference = import_module("transformers.models.musicgen_melody.feature_extraction_musicgen_melody")


class Spectrogram:
    """torchaudio.transforms.Spectrogram for the arguments that transformers gives it."""

    def __init__(self, n_fft, win_length, hop_length, power, center, pad, normalized):
        assert (power, center, pad, normalized, win_length) == (2, True, 0, True, n_fft)
        self.n_fft, self.hop = n_fft, hop_length
        self.window = torch.hann_window(n_fft)

    def __call__(self, wave):
        spectrum = torch.stft(
            wave, self.n_fft, self.hop, window=self.window, center=True, pad_mode="reflect", return_complex=True
        )
        return (spectrum / self.window.pow(2).sum().sqrt()).abs().pow(2)


@pytest.fixture
def extract(monkeypatch: pytest.MonkeyPatch):
    """Audio [samples] -> transformers' (chromagram before the argmax, one-hot after), both [frames, 12]."""
    monkeypatch.setattr(
        reference, "torchaudio", SimpleNamespace(transforms=SimpleNamespace(Spectrogram=Spectrogram)), raising=False
    )
    extractor = reference.MusicgenMelodyFeatureExtractor(padding_side="right")
    normalize = torch.nn.functional.normalize
    kept: list[torch.Tensor] = []

    def keeping(*args, **kwargs):
        normalised = normalize(*args, **kwargs)
        kept.append(normalised.clone())  # the extractor writes the one-hot over it
        return normalised

    monkeypatch.setattr(torch.nn.functional, "normalize", keeping)

    def run(audio: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        kept.clear()
        features = extractor([audio], sampling_rate=chroma.RATE_HZ, return_tensors="pt")["input_features"][0]
        return kept[0][0].T.numpy(), features.numpy()

    return run


def noise(seconds: float, gain: float) -> np.ndarray:
    return (gain * np.random.default_rng(3).standard_normal(round(seconds * chroma.RATE_HZ))).astype(np.float32)


@pytest.mark.parametrize(
    "audio",
    [
        pytest.param(tune(10.0), id="music"),
        pytest.param(tune(30.0, notes=(48, 51, 55, 58, 61, 64)), id="the whole window"),
        pytest.param(noise(8.0, 0.3), id="noise"),
        pytest.param(noise(3.0, 1e-6), id="hardly audible, below the normalisation's eps"),
        pytest.param(np.zeros(chroma.RATE_HZ * 2, np.float32), id="silence"),
        pytest.param(np.concatenate([np.zeros(64_000, np.float32), tune(3.0)]), id="silence, then music"),
        pytest.param(tune(4096 / 32_000), id="shorter than a window"),
        pytest.param(tune(4097 / 32_000), id="shorter than a window, odd"),
        pytest.param(tune(1.0)[:16_384], id="one window"),
        pytest.param(tune(1.0)[:1], id="one sample"),
        pytest.param(decode_bytes(encoded(tune(5.0, 8_000), 8_000))[0], id="from 8 kHz"),
        pytest.param(decode_bytes(encoded(tune(5.0, 96_000), 96_000))[0], id="from 96 kHz"),
        pytest.param(decode_bytes(encoded(tune(5.0), kind="MP3"))[0], id="from mp3"),
    ],
)
def test_equals_transformers(extract, audio: np.ndarray) -> None:
    before, after = extract(audio)
    assert np.abs(chroma.compute_chromagram(audio) - before).max() < 1e-5
    assert np.array_equal(np.eye(12)[chroma.strongest_pitch_classes(audio)], after)


def test_half_a_minute_is_235_positions() -> None:
    assert len(chroma.strongest_pitch_classes(np.zeros(round(chroma.CHUNK_S * chroma.RATE_HZ), np.float32))) == 235


def test_silence_has_the_first_pitch_class() -> None:
    assert not chroma.strongest_pitch_classes(np.zeros(100_000, np.float32)).any()


@pytest.mark.parametrize("rate", [8_000, 44_100, 96_000])
def test_the_melody_is_found_at_any_sample_rate(rate: int) -> None:
    """Frames that lie within one note have its pitch class."""
    audio = decode_bytes(encoded(tune(12.0, rate, note_s=1.0), rate))[0]
    found = chroma.strongest_pitch_classes(audio)
    for note, pitch in enumerate(TUNE):
        frame = round((note + 0.5) * chroma.RATE_HZ / chroma.HOP)  # centred in the note
        assert found[frame] == pitch % 12
