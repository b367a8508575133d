"""CLAP checkpoints: a sound stands in for the prompt, through transformers' audio tower and the quantizer."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import ClapConfig, ClapFeatureExtractor, ClapModel

from musicgen.clip import Failed
from musicgen.conditioning.clap_sound import ClapSoundEncoder
from musicgen.conditioning.conditioner import RequestConditioner
from musicgen.errors import RowError
from musicgen.model import load_model
from musicgen.model.text.clap import quantize_residually
from musicgen.request import Request
from tests.fixtures.checkpoints import TEXT, write_checkpoint
from tests.fixtures.engines import make_engine
from tests.musicgen.conditioning.music import decode_bytes, tune, write
from tests.musicgen.conditioning.test_melody_generation import codes, run

DIM = 16


def clap_config(fused: bool = False) -> ClapConfig:
    text = {
        "vocab_size": 400,
        "hidden_size": 24,
        "num_hidden_layers": 1,
        "num_attention_heads": 4,
        "intermediate_size": 48,
    }
    text |= {"max_position_embeddings": 100, "projection_dim": DIM, "pad_token_id": 0}
    audio = {
        "patch_embeds_hidden_size": 8,
        "depths": [1, 1],
        "num_attention_heads": [2, 2],
        "hidden_size": 16,
        "num_hidden_layers": 2,
    }
    audio |= {"projection_dim": DIM, "enable_fusion": fused}
    return ClapConfig(text_config=text, audio_config=audio, projection_dim=DIM)


def write_clap_checkpoint(folder: Path, fused: bool = False, quantizers: int = 3) -> Path:
    """A random text checkpoint whose text encoder is a random CLAP of both towers."""
    write_checkpoint(folder, TEXT, seed=1)
    config = json.loads((folder / "config.json").read_text())
    clap = clap_config(fused)
    config["text_encoder"] = clap.to_dict()
    (folder / "config.json").write_text(json.dumps(config))
    hidden = config["decoder"]["hidden_size"]
    others = {
        name: value
        for name, value in load_file(folder / "model.safetensors").items()
        if not name.startswith(("text_encoder.", "enc_to_dec_proj."))
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(6)
        model = ClapModel(clap)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter.normal_(1.0 if "norm" in name and name.endswith("weight") else 0.0, 0.3)
            for name, buffer in model.named_buffers():
                if name.endswith("running_var"):
                    buffer.fill_(500.0)  # of log mel spectrograms in dB
        tensors = {f"text_encoder.{name}": value.clone().contiguous() for name, value in model.state_dict().items()}
        tensors |= {
            f"text_quantizer.layers.{i}.codebook.embed": torch.randn(64, DIM) / 4 / 3**i for i in range(quantizers)
        }
        tensors |= {"enc_to_dec_proj.weight": torch.randn(hidden, DIM), "enc_to_dec_proj.bias": torch.randn(hidden)}
    save_file(others | tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.fixture(scope="module")
def clap_model(tmp_path_factory: pytest.TempPathFactory):
    return load_model(write_clap_checkpoint(tmp_path_factory.mktemp("clap") / "model"), "cpu", "float32")


@pytest.mark.parametrize("fused", [False, True])
def test_the_embedding_is_transformers(tmp_path: Path, fused: bool) -> None:
    """Of a sound shorter than CLAP's window, of one that fills it, and the mean over a longer one's windows."""
    model = load_model(write_clap_checkpoint(tmp_path / "model", fused), "cpu", "float32")
    clap = ClapModel(clap_config(fused)).eval()
    clap.load_state_dict(model.tensors.read("text_encoder."))
    extract = ClapFeatureExtractor(truncation="fusion" if fused else "rand_trunc")
    joint = ClapSoundEncoder(model)
    for seconds, windows in ((4.0, 1), (10.0, 1), (12.3, 3)):
        path = write(tmp_path / f"{seconds}.wav", tune(seconds, 48_000), 48_000)
        audio = decode_bytes(path.read_bytes(), sample_rate=48_000)[0]
        with torch.inference_mode():
            found = []
            for start in range(windows):
                inputs = extract(audio[start * 48_000 :][:480_000], sampling_rate=48_000, return_tensors="pt")
                found.append(clap.get_audio_features(**inputs).pooler_output)
            mean = torch.nn.functional.normalize(
                torch.nn.functional.normalize(torch.cat(found), dim=-1).mean(0, keepdim=True), dim=-1
            )
            expected = model.text.projection(quantize_residually(mean, model.text.embedder.codebooks))
        states = joint.encode(Request(melody=str(path))).states
        assert states.shape == (1, model.spec.hidden)
        torch.testing.assert_close(states, expected, atol=1e-4, rtol=1e-4)


def test_generation(clap_model, tmp_path: Path) -> None:
    one, other = (
        str(write(tmp_path / f"{i}.wav", tune(5.0, notes=notes, note_s=0.3 + i)))
        for i, notes in enumerate([(84, 88), (36, 38)])
    )
    row = Request("", melody=one, duration_s=0.5, temperature=0.0)
    rows = [
        row,
        replace(row, melody=other),
        replace(row, melody=None, prompt="warm piano"),
        replace(row, guidance_scale=1.0),
    ]
    together = codes(clap_model, rows)
    for request, found in zip(rows, together, strict=True):
        assert np.array_equal(found, codes(clap_model, [request])[0])
    assert not np.array_equal(together[0], together[1])
    assert not np.array_equal(together[0], together[2])
    assert not np.array_equal(together[0], together[3])


def test_branches(clap_model, tmp_path: Path) -> None:
    conditioner = RequestConditioner(clap_model)
    row = Request("", melody=str(write(tmp_path / "a.wav", tune(2.0))))
    for request, width in ((row, 2), (replace(row, guidance_scale=1.0), 1)):
        (prepared,) = conditioner.prepare([request])
        branches = prepared.window(0, 50).branches
        assert len(branches) == conditioner.width(request) == width
        assert branches[0].cross.shape == (1, clap_model.spec.hidden)
    conditioner.close()


def test_conditions_that_such_a_model_does_not_take(clap_model, text_checkpoint: Path, tmp_path: Path) -> None:
    assert clap_model.spec.supports("style")
    (tmp_path / "text.wav").write_text("la la")
    path = str(write(tmp_path / "a.wav", tune(2.0)))
    bad, both = run(clap_model, [Request("", melody=str(tmp_path / "text.wav")), Request("piano", melody=path)])
    assert isinstance(bad, Failed)
    assert isinstance(both, Failed)
    assert (bad.error.error_class, both.error.error_class) == ("melody", "invalid")
    assert "not both" in str(both.error)
    t5 = load_model(text_checkpoint, "cpu", "float32")
    assert not t5.spec.supports("style")
    engine = make_engine(t5, slots=1)
    with pytest.raises(RowError, match="takes no melody"):
        engine.add(Request("", melody=path).resolve(0, 50))
    engine.close()
