"""EnCodec both ways: equal to transformers', whole or in pieces, mono and stereo."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from transformers import EncodecModel, MusicgenForConditionalGeneration

from musicgen.errors import ModelError
from musicgen.model.checkpoint.tensors import Tensors
from musicgen.model.codec import encodec as codec_module
from musicgen.model.codec.encodec import EnCodec
from musicgen.model.codec.seanet import build_stages
from musicgen.model.spec_reader import read_spec


def load(folder: Path) -> EnCodec:
    return EnCodec.load(folder, read_spec(folder), Tensors.open(folder), torch.device("cpu"))


def random_codes(codec: EnCodec, frames: int, seed: int = 0) -> NDArray[np.int16]:
    return np.random.default_rng(seed).integers(0, codec.codebook_size, (codec.codebooks, frames)).astype(np.int16)


@pytest.fixture(scope="module", params=["matrices", "modules"])
def mono(text_checkpoint: Path, request: pytest.FixtureRequest) -> EnCodec:
    """The codec as it runs on a CPU, and as it runs elsewhere."""
    codec = load(text_checkpoint)
    if request.param == "modules":
        codec._stages = None
    return codec


@pytest.fixture(scope="module")
def stereo(stereo_checkpoint: Path) -> EnCodec:
    return load(stereo_checkpoint)


@pytest.fixture(scope="module")
def reference(text_checkpoint: Path) -> EncodecModel:
    return MusicgenForConditionalGeneration.from_pretrained(text_checkpoint).eval().audio_encoder


@pytest.mark.parametrize("frames", [1, 2, 7, 130])
def test_equal_to_transformers(mono: EnCodec, reference: EncodecModel, frames: int) -> None:
    codes = random_codes(mono, frames)
    audio = mono.decode(codes)
    with torch.no_grad():
        expected = reference.decode(torch.from_numpy(codes.astype(np.int64))[None, None], [None]).audio_values[0]
        heard = reference.encode(expected[None]).audio_codes[0, 0]
    assert audio.shape == (1, frames * 640)
    assert audio.dtype == np.float32
    np.testing.assert_allclose(audio, expected.numpy(), atol=2e-6)
    found = mono.encode(expected.numpy())
    assert found.dtype == np.int16
    np.testing.assert_array_equal(found, heard.numpy())
    assert frames < 100 or len(np.unique(found)) > 30


@pytest.mark.parametrize("frames", [48, 67, 100, 161])
def test_pieces_join_without_a_seam(mono: EnCodec, monkeypatch: pytest.MonkeyPatch, frames: int) -> None:
    codes = random_codes(mono, frames)
    whole = mono.decode(codes)
    sound = torch.from_numpy(whole[None, :, : frames * 640 - 100])  # a last frame that is not full
    layers = list(mono.model.encoder.layers)
    with torch.inference_mode():
        latents = mono._run_around_lstm(layers, sound, up=False)
        monkeypatch.setattr(codec_module, "PIECE_FRAMES", 32)
        torch.testing.assert_close(mono._run_around_lstm(layers, sound, up=False), latents, atol=2e-4, rtol=1e-5)
    assert latents.std(dim=-1).min() > 0.1
    np.testing.assert_allclose(mono.decode(codes), whole, atol=1e-6)


def test_memory_is_bounded_by_the_piece(text_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    codec = load(text_checkpoint)
    monkeypatch.setattr(codec_module, "PIECE_FRAMES", 40)
    assert codec._stages is not None
    behind = codec._stages[2]
    last, seen = behind[-1], []

    def watched(x: torch.Tensor) -> torch.Tensor:
        seen.append(x.shape[0])
        return last(x)

    behind[-1] = watched
    assert codec.decode(random_codes(codec, 400)).shape == (1, 400 * 640)
    assert len(seen) == 10
    assert max(seen) <= (40 + 2 * codec_module.CONTEXT_FRAMES) * 640


def test_clips_decoded_together_are_the_clips_alone(mono: EnCodec) -> None:
    check_together(mono)


def test_stereo_clips_decoded_together_are_the_clips_alone(stereo: EnCodec) -> None:
    check_together(stereo)


def check_together(codec: EnCodec) -> None:
    clips = [random_codes(codec, frames) for frames in (40, 3, 700, 41, 256, 40)]
    for clip, audio in zip(clips, codec.decode_all(clips), strict=True):
        np.testing.assert_array_equal(audio, codec.decode(clip))


def test_kinds_that_the_matrices_do_not_know_run_as_modules(reference: EncodecModel) -> None:
    assert build_stages(reference.decoder.layers) is not None
    reference.decoder.layers[0].causal = True
    try:
        assert build_stages(reference.decoder.layers) is None
    finally:
        reference.decoder.layers[0].causal = False


def test_stereo_is_two_interleaved_streams(stereo: EnCodec, stereo_checkpoint: Path) -> None:
    reference = MusicgenForConditionalGeneration.from_pretrained(stereo_checkpoint).eval().audio_encoder
    codes = random_codes(stereo, 40)
    audio = stereo.decode(codes)
    assert audio.shape == (2, 40 * 640)
    for channel in range(2):
        ids = torch.from_numpy(codes[channel::2].astype(np.int64))
        with torch.no_grad():
            expected = reference.decode(ids[None, None], [None]).audio_values[0, 0]
            heard = reference.encode(torch.from_numpy(audio[channel])[None, None]).audio_codes[0, 0]
        np.testing.assert_allclose(audio[channel], expected.numpy(), atol=1e-6)
        # Rounding tips a near tie between two centres now and then, and the finer codebooks of that frame with it.
        assert (stereo.encode(audio)[channel::2] == heard.numpy()).mean() > 0.95
    swapped = codes.reshape(4, 2, -1)[:, ::-1].reshape(8, -1)
    np.testing.assert_allclose(stereo.decode(swapped), audio[::-1], atol=1e-6)


def test_old_names_of_weight_norm(text_checkpoint: Path, mono: EnCodec, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(text_checkpoint, tmp_path / "old"))
    tensors = load_file(folder / "model.safetensors")
    renamed = {
        name.replace("parametrizations.weight.original0", "weight_g").replace(
            "parametrizations.weight.original1", "weight_v"
        ): value
        for name, value in tensors.items()
        if not name.endswith(("inited", "cluster_size", "embed_avg"))
    }
    assert any(name.endswith("weight_g") for name in renamed)
    save_file(renamed, folder / "model.safetensors")
    codes = random_codes(mono, 30)
    np.testing.assert_array_equal(load(folder).decode(codes), load(text_checkpoint).decode(codes))


def test_missing_and_misshapen_tensors(text_checkpoint: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(text_checkpoint, tmp_path / "bad"))
    tensors = load_file(folder / "model.safetensors")
    name = "audio_encoder.decoder.layers.0.conv.bias"
    save_file({n: t for n, t in tensors.items() if n != name}, folder / "model.safetensors")
    with pytest.raises(ModelError, match=r"lacks the tensor decoder\.layers\.0\.conv\.bias"):
        load(folder)
    save_file(tensors | {name: torch.zeros(3)}, folder / "model.safetensors")
    with pytest.raises(ModelError, match="do not belong together"):
        load(folder)
    save_file({n: t for n, t in tensors.items() if not n.startswith("audio_encoder.")}, folder / "model.safetensors")
    with pytest.raises(ModelError, match=r"holds no tensors audio_encoder\."):
        load(folder)


@pytest.mark.parametrize(
    ("codes", "message"),
    [
        (np.zeros((3, 5), np.int16), r"codes are \[4, frames\]"),
        (np.zeros((4, 0), np.int16), r"codes are \[4, frames\]"),
        (np.full((4, 5), 64, np.int16), r"codes lie in 0 \.\. 63; found 64"),
        (np.full((4, 5), -1, np.int16), "found -1"),
    ],
)
def test_wrong_codes_are_refused(mono: EnCodec, codes: NDArray[np.int16], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        mono.decode(codes)


@pytest.mark.parametrize(
    ("audio", "message"),
    [
        (np.zeros((2, 640), np.float32), r"audio is \[1, samples\]"),
        (np.zeros((1, 0), np.float32), r"audio is \[1, samples\]"),
        (np.full((1, 640), np.nan, np.float32), "not finite"),
    ],
)
def test_wrong_audio_is_refused(mono: EnCodec, audio: NDArray[np.float32], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        mono.encode(audio)
