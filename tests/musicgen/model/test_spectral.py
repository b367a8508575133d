"""The spectral codec: sound and back, frame by frame, the same whatever else runs, and what it refuses."""

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file
from threadpoolctl import threadpool_limits

from musicgen import MusicGen, Request
from musicgen.errors import ModelError
from musicgen.model import load_codec
from musicgen.model.checkpoint.tensors import Tensors
from musicgen.model.codec import mel_bands as mel_bands_module
from musicgen.model.codec.mel_bands import MelBands
from musicgen.model.codec.mel_filters import make_mel_filters
from musicgen.model.codec.spectral import SpectralCodec
from musicgen.model.codec.spectral_settings import SpectralSettings
from musicgen.training.fit_codec import FittedCodec, fit_codec

RATE = 16_000
SETTINGS = SpectralSettings(codebook_size=64)


def music(seed: int, seconds: float = 6.0) -> NDArray[np.float32]:
    """Notes of a scale, plucked, over a bass and a click on each beat: float32 [samples]."""
    rng = np.random.default_rng(seed)
    samples = round(seconds * RATE)
    audio = np.zeros(samples + 2 * RATE)
    for beat in range(round(3 * seconds)):
        start, t = round(beat * RATE / 3), np.arange(RATE) / RATE
        pitch = 440 * 2 ** ((rng.choice([0, 2, 4, 5, 7, 9, 11]) - 9) / 12)
        for k in range(1, 9):
            audio[start : start + RATE] += 0.3 / k * np.exp(-t * (3 + k)) * np.sin(2 * np.pi * k * pitch * t + k)
        audio[start : start + RATE] += 0.2 * np.exp(-t * 4) * np.sin(2 * np.pi * 98 * t)
        audio[start : start + 800] += 0.1 * rng.standard_normal(800) * np.exp(-np.arange(800) / 100)
    return (0.6 * audio[:samples] / np.abs(audio[:samples]).max()).astype(np.float32)


@pytest.fixture(scope="module")
def fitted() -> FittedCodec:
    return fit_codec([music(seed) for seed in range(8)], SETTINGS, seed=1)


@pytest.fixture(scope="module")
def codec(fitted: FittedCodec) -> SpectralCodec:
    return SpectralCodec.from_state(fitted.settings, fitted.tensors)


@pytest.fixture(scope="module")
def folder(fitted: FittedCodec, text_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A text checkpoint with this codec in EnCodec's place, and windows of two seconds."""
    folder = Path(shutil.copytree(text_checkpoint, tmp_path_factory.mktemp("spectral") / "checkpoint"))
    tensors = {
        name: value
        for name, value in load_file(folder / "model.safetensors").items()
        if not name.startswith("audio_encoder.")
    }
    tensors |= {f"audio_encoder.{name}": value.astype(np.float16) for name, value in fitted.tensors.items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    change(folder, audio_encoder=fitted.settings.to_section(), max_position_embeddings=104)
    return folder


def change(folder: Path, audio_encoder: dict[str, Any], **decoder: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["audio_encoder"] = audio_encoder
    config["decoder"] |= decoder
    (folder / "config.json").write_text(json.dumps(config))


def spectrum(audio: NDArray[np.float32]) -> NDArray[np.float32]:
    return MelBands(SETTINGS).analyze(audio)


def distance(audio: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    """How far apart two sounds' compressed spectra are, relative to the first."""
    return float(np.linalg.norm(spectrum(audio) - spectrum(other)) / np.linalg.norm(spectrum(audio)))


def test_music_comes_back(codec: SpectralCodec) -> None:
    from librosa.feature import chroma_stft

    audio = music(100)
    heard = codec.decode(codec.encode(audio[None]))[0]
    assert distance(audio, heard) < 0.3  # 64 centres a codebook
    assert distance(audio, heard) < 0.5 * distance(audio, music(101))
    assert abs(20 * np.log10(heard.std() / audio.std())) < 1.5
    # Without a tuning librosa looks for it by a function that numba compiles, and two processes that compile it at once
    # leave a cache that crashes both and all later ones (numba issue 10128).
    classes, heard_classes = (chroma_stft(y=sound, sr=RATE, tuning=0.0).argmax(axis=0) for sound in (audio, heard))
    assert (classes == heard_classes).mean() > 0.85


def test_phases_are_found_without_quantising() -> None:
    bands, audio = MelBands(SETTINGS), music(100)
    heard = bands.synthesize(bands.analyze(audio))
    assert distance(audio, heard) < 0.13  # 0.16 without a round of refinement
    onsets = (
        np.abs(np.diff(np.abs(audio.reshape(-1, 320)).max(axis=1))),
        np.abs(np.diff(np.abs(heard.reshape(-1, 320)).max(axis=1))),
    )
    assert np.corrcoef(*onsets)[0, 1] > 0.9  # attacks stay where they are


@pytest.mark.parametrize(("samples", "frames"), [(1, 1), (319, 1), (320, 1), (321, 2), (5000, 16), (160_000, 500)])
def test_frames(codec: SpectralCodec, samples: int, frames: int) -> None:
    codes = codec.encode(np.resize(music(100), (1, samples)))
    assert codes.dtype == np.int16
    assert codes.shape == (4, frames)
    audio = codec.decode(codes)
    assert audio.dtype == np.float32
    assert audio.shape == (1, frames * 320)
    assert np.isfinite(audio).all()


def test_a_frame_stands_for_its_own_samples(codec: SpectralCodec) -> None:
    audio = np.zeros((1, 320 * 40), np.float32)
    audio[0, 320 * 20 : 320 * 21] = music(100)[:320] + 0.3
    loudest = np.abs(spectrum(audio[0])).sum(axis=1).argmax()
    assert loudest == 20


def test_pieces_join_without_a_seam(codec: SpectralCodec, monkeypatch: pytest.MonkeyPatch) -> None:
    bands, audio = codec.bands, music(100)
    whole = spectrum(audio)
    assert len(whole) == 300 > mel_bands_module.PIECE_FRAMES + mel_bands_module.AHEAD_FRAMES
    monkeypatch.setattr(mel_bands_module, "PIECE_FRAMES", 40)
    np.testing.assert_allclose(bands.analyze(audio), whole, atol=1e-6)
    heard = bands.synthesize(whole)
    monkeypatch.setattr(mel_bands_module, "PIECE_FRAMES", 300)
    assert distance(audio, heard) < 1.05 * distance(audio, bands.synthesize(whole))
    error = np.square(spectrum(heard) - whole).sum(axis=1)
    seams = np.zeros(300, bool)
    seams[[frame for join in range(40, 300, 40) for frame in range(join - 2, join + 2)]] = True
    assert error[seams].mean() < 1.5 * error[~seams].mean()


def test_memory_does_not_grow_with_the_clip(codec: SpectralCodec, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    transform = MelBands._transform

    def watched(self: MelBands, audio: NDArray[np.float32], frames: int) -> NDArray[np.complex64]:
        seen.append(frames)
        return transform(self, audio, frames)

    monkeypatch.setattr(MelBands, "_transform", watched)
    monkeypatch.setattr(mel_bands_module, "REFINEMENT_ROUNDS", 2)
    codes = np.random.default_rng(0).integers(0, 64, (4, 3000))
    assert codec.encode(codec.decode(codes)).shape == (4, 3000)
    assert max(seen) <= mel_bands_module.PIECE_FRAMES + mel_bands_module.AHEAD_FRAMES + codec.bands.overlap
    assert len(seen) > 20


def test_the_same_whatever_else_runs(codec: SpectralCodec, fitted: FittedCodec) -> None:
    sounds = [music(seed, 1.0 + 0.37 * (seed % 5))[None] for seed in range(100, 108)]
    with threadpool_limits(1):
        codes = [codec.encode(sound) for sound in sounds]
        alone = [codec.decode(each) for each in codes]
    other = SpectralCodec.from_state(fitted.settings, fitted.tensors)
    with ThreadPoolExecutor(4) as pool:
        for wanted, found in zip(codes, pool.map(other.encode, sounds), strict=True):
            np.testing.assert_array_equal(found, wanted)
        for wanted_sound, found_sound in zip(alone, pool.map(other.decode, codes), strict=True):
            assert found_sound.tobytes() == wanted_sound.tobytes()


def test_never_beyond_full_scale(codec: SpectralCodec) -> None:
    rng = np.random.default_rng(0)
    for codes in (rng.integers(0, 64, (4, 120)), np.full((4, 50), 63), np.arange(256).reshape(4, 64) % 64):
        audio = codec.decode(codes)
        assert np.isfinite(audio).all()
        assert 0 < np.abs(audio).max() <= 1
    loud = codec.decode(codec.encode(8 * music(100)[None]))
    assert 0.5 < np.abs(loud).max() <= 1


def test_silence_stays_silent(codec: SpectralCodec) -> None:
    quiet = codec.decode(codec.encode(np.zeros((1, 3200), np.float32)))
    assert np.abs(quiet).max() < 1e-3  # -60 dBFS


def test_stereo_is_two_interleaved_streams(codec: SpectralCodec, fitted: FittedCodec) -> None:
    stereo = SpectralCodec.from_state(fitted.settings, fitted.tensors, channels=2)
    left, right = 0.5 * music(100, 1.0), 0.5 * music(101, 1.0)
    codes = stereo.encode(np.stack([left, right]))
    assert stereo.codebooks == len(codes) == 8
    np.testing.assert_array_equal(codes[0::2], codec.encode(left[None]))
    np.testing.assert_array_equal(codes[1::2], codec.encode(right[None]))
    np.testing.assert_array_equal(
        stereo.decode(codes), np.concatenate([codec.decode(codes[0::2]), codec.decode(codes[1::2])])
    )


@pytest.mark.parametrize(
    ("codes", "message"),
    [
        (np.zeros((3, 5), int), r"codes are \[4, frames\]"),
        (np.zeros((4, 0), int), r"codes are \[4, frames\]"),
        (np.zeros(4, int), r"codes are \[4, frames\]"),
        (np.zeros((4, 5)), "codes are integers"),
        (np.full((4, 5), 64), r"codes lie in 0 \.\. 63; found 64"),
        (np.full((4, 5), -1), r"found -1"),
    ],
)
def test_hostile_codes(codec: SpectralCodec, codes: NDArray[Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        codec.decode(codes)


@pytest.mark.parametrize(
    ("audio", "message"),
    [
        (np.zeros((2, 500), np.float32), r"audio is \[1, samples\]"),
        (np.zeros((1, 0), np.float32), r"audio is \[1, samples\]"),
        (np.full((1, 500), np.nan, np.float32), "not finite"),
    ],
)
def test_hostile_sound(codec: SpectralCodec, audio: NDArray[np.float32], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        codec.encode(audio)


def test_a_checkpoint_with_it(folder: Path, codec: SpectralCodec) -> None:
    loaded = load_codec(folder)
    assert isinstance(loaded, SpectralCodec)
    assert (loaded.sample_rate, loaded.frame_rate, loaded.channels, loaded.codebooks, loaded.codebook_size) == (
        RATE,
        50.0,
        1,
        4,
        64,
    )
    sound = music(100, 2.0)[None]
    codes = loaded.encode(sound)
    np.testing.assert_array_equal(codes, codec.encode(sound))  # stored as halves
    np.testing.assert_array_equal(loaded.decode(codes), codec.decode(codes))


def test_clips_of_one_window_and_of_several(folder: Path) -> None:
    model = MusicGen.from_pretrained(folder)
    assert (model.spec.codec, model.spec.max_frames, model.sample_rate) == ("spectral_rvq", 100, RATE)
    short, long = model.generate([Request("piano", duration_s=0.5, seed=1), Request("piano", duration_s=4.3, seed=1)])
    assert short.audio.shape == (1, 8000)
    assert long.audio.shape == (1, 215 * 320)
    assert 0 < np.abs(long.audio).max() <= 1


def test_wrong_tensors_and_settings(folder: Path, fitted: FittedCodec, tmp_path: Path) -> None:
    bad = Path(shutil.copytree(folder, tmp_path / "bad"))
    section = SETTINGS.to_section()
    for key, value, message in [
        ("n_mels", 80, "shape"),
        ("n_mels", "many", "n_mels is 'many'"),
        ("n_mels", 900, "at most n_fft / 2"),
        ("n_fft", 400, "overlap by half"),
        ("compression", 1.5, "compression 1.5"),
        ("num_quantizers", 3, "its codec has 3 codebooks, the decoder 4"),
    ]:
        change(bad, section | {key: value})
        with pytest.raises(ModelError, match=message):
            load_codec(bad)
    change(bad, section | {"hop_length": None})
    with pytest.raises(ModelError, match="lacks the key 'hop_length'"):
        load_codec(bad)
    for name, damaged in (("scale", np.zeros(160)), ("mean", np.full(160, np.nan))):
        with pytest.raises(ModelError, match=f"{name} holds values"):
            SpectralCodec.from_state(SETTINGS, fitted.tensors | {name: damaged})
    with pytest.raises(ModelError, match=r"lacks the tensor audio_encoder\.mean"):
        SpectralCodec.from_state(SETTINGS, {"codebooks": fitted.tensors["codebooks"]})
    assert Tensors.open(bad).headers["audio_encoder.mean"].shape == (160,)
    assert replace(SETTINGS, n_mels=80).shapes["codebooks"] == (4, 64, 80)


@pytest.mark.parametrize(("rate", "n_fft", "n_mels"), [(16_000, 1024, 160), (32_000, 2048, 128), (1_800, 256, 7)])
def test_filters_have_the_bits_of_librosa(rate: int, n_fft: int, n_mels: int) -> None:
    from librosa import filters

    expected = filters.mel(sr=rate, n_fft=n_fft, n_mels=n_mels, norm=None)
    assert np.array_equal(make_mel_filters(rate, n_fft, n_mels), expected)
