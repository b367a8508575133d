"""The style conditioner with a random checkpoint of our format; the published weights are not used."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from musicgen.clip import Clip, Failed
from musicgen.conditioning.conditioner import PreparedRequest, RequestConditioner
from musicgen.conditioning.conditions import Branch, Conditions
from musicgen.conditioning.style import StyleEncoder, StyleNetwork, StyleSettings
from musicgen.engine.stepper import TEXT_CAPACITY
from musicgen.errors import ModelError, RowError
from musicgen.model import load_model
from musicgen.request import Request
from tests.fixtures.engines import make_engine
from tests.musicgen.conditioning.conftest import prefix_length
from tests.musicgen.conditioning.music import decode_bytes, tune, write
from tests.musicgen.conditioning.style_checkpoint import SETTINGS, write_style_checkpoint
from tests.musicgen.conditioning.test_melody_generation import codes, run


@pytest.fixture(scope="module")
def style_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_style_checkpoint(tmp_path_factory.mktemp("style") / "model")


@pytest.fixture(scope="module")
def style_model(style_folder: Path):
    return load_model(style_folder, "cpu", "float32")


@pytest.fixture
def conditioner(style_model):
    conditioner = RequestConditioner(style_model)
    yield conditioner
    conditioner.close()


def embeddings(conditioner: RequestConditioner, path: Path) -> torch.Tensor:
    return conditioner.style.encode(Request("", melody=str(path)))


def test_the_published_sizes_give_fifteen_positions() -> None:
    """3 s at 24 kHz are 224 frames of MERT (a HuBERT, 320 samples a frame); every 15th is kept: 5 a second."""
    network = StyleNetwork(
        StyleSettings(
            features={
                "num_hidden_layers": 1,
                "hidden_size": 32,
                "intermediate_size": 8,
                "num_attention_heads": 2,
                "conv_dim": [8] * 7,
                "num_conv_pos_embedding_groups": 2,
            },
            layers=1,
        ),
        64,
    )
    assert network.positions == 15
    assert network(torch.zeros(72_000)).shape == (15, 64)


def test_the_network_is_audiocrafts(style_model) -> None:
    """Each part again, from torch's own attention and a loop over the quantizers' books."""
    network = StyleEncoder.load(style_model).network
    audio = torch.from_numpy(tune(3.0, 24_000))
    with torch.no_grad():
        x = network.embed(network.features(audio[None]).last_hidden_state)[0]
        length, dim = x.shape
        for position in range(length):
            for k in range(dim // 2):
                angle = torch.tensor(position / 10_000 ** (k / (dim // 2 - 1)))
                x[position, k] += angle.cos()
                x[position, dim // 2 + k] += angle.sin()
        for layer in network.layers:
            attention = nn.MultiheadAttention(dim, SETTINGS.heads, bias=False, batch_first=True)
            attention.in_proj_weight.copy_(layer.in_proj.weight)
            attention.out_proj.weight.copy_(layer.out_proj.weight)
            y = layer.norm1(x)[None]
            x = x + attention(y, y, y)[0][0]
            x = x + nn.functional.gelu(layer.norm2(x) @ layer.linear1.weight.T) @ layer.linear2.weight.T
        batch_norm = nn.BatchNorm1d(dim, affine=False).eval()
        batch_norm.running_mean.copy_(network.norm.mean)
        batch_norm.running_var.copy_(network.norm.variance)
        x = batch_norm(x)
        kept = []
        for frame in x[:: SETTINGS.downsample]:
            residual = frame.clone()
            for book in network.codebooks[: SETTINGS.used_quantizers]:
                residual -= min(book, key=lambda code: float((residual - code).square().sum()))
            kept.append(network.output(frame - residual))
        assert torch.allclose(network(audio), torch.stack(kept), atol=1e-4)


def test_the_excerpt_is_the_middle_of_the_first_half_minute(conditioner, style_model, tmp_path: Path) -> None:
    audio = tune(11.0, 24_000)
    path = write(tmp_path / "a.wav", audio, 24_000)
    found = embeddings(conditioner, path)
    assert found.shape == (conditioner.style.positions, style_model.spec.hidden)
    middle = decode_bytes(path.read_bytes(), sample_rate=24_000)[0, 4 * 24_000 : 7 * 24_000]
    assert torch.equal(found, conditioner.style.network(torch.from_numpy(middle)))
    # What lies outside changes nothing, what lies inside does.
    outside, inside = audio.copy(), audio.copy()
    outside[:24_000], inside[5 * 24_000 : 6 * 24_000] = 0, 0
    assert torch.equal(found, embeddings(conditioner, write(tmp_path / "outside.wav", outside, 24_000)))
    assert not torch.equal(found, embeddings(conditioner, write(tmp_path / "inside.wav", inside, 24_000)))
    # A short excerpt is repeated.
    assert embeddings(conditioner, write(tmp_path / "short.wav", audio[:24_000], 24_000)).shape == found.shape


def test_branches(conditioner, tmp_path: Path) -> None:
    path = str(write(tmp_path / "a.wav", tune(4.0)))
    rows = [
        (3, Request("warm piano", melody=path)),
        (2, Request("warm piano", melody=path, guidance_scale=1.0)),
        (2, Request("", melody=path)),
        (1, Request("", melody=path, guidance_scale=1.0)),
        (2, Request("warm piano")),
        (1, Request("warm piano", guidance_scale=1.0)),
        (1, Request("")),
    ]
    for width, row in rows:
        (prepared,) = conditioner.prepare([row])
        conditions = prepared.window(0, 50)
        assert len(conditions.branches) == conditioner.width(row) == width
        assert conditions.prefix_length == prefix_length(conditioner, row)
    (prepared,) = conditioner.prepare([rows[0][1]])
    conditions = prepared.window(0, 50)
    both, sound, none = (branch.prefix for branch in conditions.branches)
    style = conditioner.style.positions
    assert conditions.beta == SETTINGS.guidance_beta
    assert torch.equal(both[:style], sound[:style])
    assert both[style:].any()
    assert not sound[style:].any()
    assert not none.any()
    # null + a (w + b (c - w) - null) is w + b (c - w) at a scale of 1: the null branch drops out, style's guidance
    # stays.
    (prepared,) = conditioner.prepare([rows[1][1]])
    conditions = prepared.window(0, 50)
    assert conditions.scale == SETTINGS.guidance_beta
    assert [
        torch.equal(branch.prefix, wanted) for branch, wanted in zip(conditions.branches, (both, sound), strict=True)
    ] == [True, True]


def test_generation(style_model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = (
        str(write(tmp_path / f"{i}.wav", tune(4.0, notes=notes))) for i, notes in enumerate([(60, 64, 67), (49, 54)])
    )
    greedy = Request("warm piano", melody=one, duration_s=0.6, temperature=0.0)
    rows = [
        greedy,
        replace(greedy, melody=other),
        replace(greedy, prompt=""),
        replace(greedy, melody=None),
        replace(greedy, duration_s=4.0),
        replace(greedy, guidance_scale=1.0),
    ]
    together = codes(style_model, rows)
    for row, found in zip(rows, together, strict=True):
        (alone,) = codes(style_model, [row])
        assert np.array_equal(found, alone)
    assert not np.array_equal(together[0], together[1])
    assert not np.array_equal(together[0], together[3])
    # A scale of 1 is the formula at that scale.
    window = PreparedRequest.window

    def spelt_out(prepared: PreparedRequest, start: int, frames: int) -> Conditions:
        both, sound = window(prepared, start, frames).branches
        null = Branch(prefix=torch.zeros_like(both.prefix))
        return Conditions((both, sound, null), 1.0, SETTINGS.guidance_beta)

    with monkeypatch.context() as patch:
        patch.setattr(PreparedRequest, "window", spelt_out)
        patch.setattr(RequestConditioner, "width", lambda self, request: 3)
        (formula,) = codes(style_model, [rows[5]])
    assert np.array_equal(formula, together[5])
    assert not np.array_equal(formula, together[0])
    # With beta 1 the double guidance is the single one.
    monkeypatch.setattr(
        StyleEncoder, "load", classmethod(lambda cls, model, load=StyleEncoder.load: _with_beta(load(model), 1.0))
    )
    (double,) = codes(style_model, [greedy])
    monkeypatch.setattr(RequestConditioner, "width", lambda self, request: 2)
    monkeypatch.setattr(PreparedRequest, "window", lambda *arguments: _single(window(*arguments)))
    (single,) = codes(style_model, [greedy])
    assert np.array_equal(double, single)
    assert not np.array_equal(double, together[0])


def test_the_engine_plans_room_for_excerpt_and_prompt(style_model, tmp_path: Path) -> None:
    prompt = "warm " * 40
    while style_model.text.encode(prompt).states.shape[0] < TEXT_CAPACITY:
        prompt += "warm "
    row = Request(prompt, melody=str(write(tmp_path / "a.wav", tune(4.0))), duration_s=4.0).resolve(0, 50)
    engine = make_engine(style_model, slots=1)
    planned = engine._stepper.cache.capacity
    engine.add(row)
    while engine.busy:
        assert all(isinstance(outcome, Clip) for outcome in engine.step())
    needed = 4 * 50 + 4 + prefix_length(engine._conditioner, row)
    engine.close()
    assert needed <= engine._stepper.cache.capacity == planned < needed + 64


def _single(conditions: Conditions) -> Conditions:
    both, _, null = conditions.branches
    return Conditions((both, null), conditions.scale)


def _with_beta(encoder: StyleEncoder, beta: float) -> StyleEncoder:
    encoder.beta = beta
    return encoder


def test_a_bad_excerpt_fails_its_row(style_model, tmp_path: Path) -> None:
    (tmp_path / "text.wav").write_text("la la")
    (failed,) = run(style_model, [Request("piano", melody=str(tmp_path / "text.wav"), duration_s=0.1)])
    assert isinstance(failed, Failed)
    assert isinstance(failed.error, RowError)
    assert "style excerpt" in str(failed.error)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"dim": "wide"}, "conditioner.dim"),
        ({"depth": 3}, "conditioner.depth"),
        ({"features": None}, "conditioner.features"),
        ({"bins": 64}, "codebooks has the shape"),
        ({"layers": 3}, "lacks the tensor"),
    ],
)
def test_a_wrong_config_is_reported(style_folder: Path, tmp_path: Path, change: dict, reason: str) -> None:
    folder = shutil.copytree(style_folder, tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    config["conditioner"] |= change
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=reason):
        StyleEncoder.load(load_model(folder, "cpu", "float32"))
