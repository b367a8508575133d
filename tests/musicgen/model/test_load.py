"""A checkpoint onto a device: every kind of it, and every way it can be incomplete."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from musicgen.errors import ModelError
from musicgen.model import load, load_model, resolve_checkpoint
from musicgen.model.checkpoint.tensors import Tensors
from musicgen.model.load import pick_decoder_dtype, pick_device, pick_dtype


@pytest.mark.parametrize("kind", ["text", "deeper", "stereo", "melody"])
def test_every_kind_loads(kind: str, request: pytest.FixtureRequest) -> None:
    model = load_model(request.getfixturevalue(f"{kind}_checkpoint"), device="cpu", dtype="float32")
    assert model.device == torch.device("cpu")
    assert model.dtype == torch.float32
    assert model.spec.kind == ("melody" if kind == "melody" else "text")
    assert len(model.decoder.layers) == model.spec.layers
    assert model.codec.codebooks == model.spec.codebooks == (8 if kind == "stereo" else 4)
    assert model.codec.channels == (2 if kind == "stereo" else 1)
    assert model.text.encode("warm piano").states.shape[1] == model.spec.hidden
    if kind == "melody":
        assert model.chroma_table is not None
        assert model.chroma_table.shape == (12, model.spec.hidden)
    else:
        assert model.chroma_table is None


def test_the_embedded_model_is_stored_in_half_and_loads_whole() -> None:
    model = load_model("embedded", device="cpu", dtype="float32")
    assert {info.dtype for info in model.tensors.headers.values()} == {"F16"}
    assert model.decoder.embeddings.dtype == torch.float32


def test_loading_leaves_the_random_state_alone(text_checkpoint: Path) -> None:
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    load_model(text_checkpoint, device="cpu")
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize(
    ("drop", "message"),
    [
        ("decoder.lm_heads.3.", r"lacks the tensor decoder\.lm_heads\.3\.weight"),
        ("decoder.", r"lacks the tensor decoder\.model\.decoder\.embed_tokens\.0\.weight"),
        ("audio_encoder.", r"holds no tensors audio_encoder\."),
        (
            "text_encoder.encoder.block.1.layer.0.layer_norm",
            r"lacks the tensor encoder\.block\.1\.layer\.0\.layer_norm\.weight",
        ),
        ("enc_to_dec_proj.bias", r"lacks the tensor enc_to_dec_proj\.bias"),
        ("enc_to_dec_proj.", r"lacks the tensor enc_to_dec_proj\.weight"),
    ],
)
def test_an_incomplete_checkpoint_names_what_it_lacks(
    text_checkpoint: Path, tmp_path: Path, drop: str, message: str
) -> None:
    folder = Path(shutil.copytree(text_checkpoint, tmp_path / "part"))
    tensors = load_file(folder / "model.safetensors")
    save_file(
        {name: value for name, value in tensors.items() if not name.startswith(drop)}, folder / "model.safetensors"
    )
    with pytest.raises(ModelError, match=message):
        load_model(resolve_checkpoint(folder), device="cpu")


def test_views_read_what_is_looked_up(text_checkpoint: Path) -> None:
    view = Tensors.open(text_checkpoint).view("decoder.", "cpu", torch.bfloat16)
    expected = load_file(text_checkpoint / "model.safetensors")
    assert set(view) == {name.removeprefix("decoder.") for name in expected if name.startswith("decoder.")}
    assert len(view) == len(set(view))
    assert view["lm_heads.0.weight"].dtype == torch.bfloat16
    assert torch.equal(view["lm_heads.0.weight"], expected["decoder.lm_heads.0.weight"].bfloat16())
    assert "enc_to_dec_proj.weight" not in view
    with pytest.raises(KeyError):
        view["no.such.tensor"]


@pytest.mark.parametrize("name", ["gpu", "mps", "cuda:99"])
def test_devices_that_are_not_here(name: str) -> None:
    with pytest.raises(ModelError, match=r"model\.device"):
        pick_device(name)


def test_dtypes() -> None:
    cpu = pick_device("cpu")
    assert pick_dtype("bfloat16", cpu) == torch.bfloat16
    assert pick_dtype("auto", cpu) in (torch.float32, torch.bfloat16)
    with pytest.raises(ModelError, match=r"model\.dtype 'int4'"):
        pick_dtype("int4", cpu)


@pytest.mark.parametrize(
    ("flags", "library", "expected"),
    [
        ({"avx2", "fma"}, object(), torch.bfloat16),
        ({"avx2", "fma"}, "no compiler", torch.float32),
        ({"avx2", "fma", "avx512_bf16"}, "no compiler", torch.bfloat16),
        ({"sse4_2"}, object(), torch.float32),
    ],
)
def test_the_decoder_takes_bfloat16_where_it_is_faster_in_it(
    flags: set[str], library: object, expected: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(load, "processor_flags", lambda: flags)
    monkeypatch.setattr(load, "load_library", lambda: library)
    assert pick_decoder_dtype("auto", torch.device("cpu")) == expected
    assert pick_decoder_dtype("float32", torch.device("cpu")) == torch.float32
    with pytest.raises(ModelError, match=r"model\.dtype 'int4'"):
        pick_decoder_dtype("int4", torch.device("cpu"))
