"""Every codebook pattern that a config may name, through the API: the codes of an oracle that one can read.

The oracle runs transformers' decoder from the beginning for each step of `musicgen.patterns.layout`, without a cache,
one clip at a time, and takes the likeliest code. Windows of 24 frames make a clip of half a second a long one.
"""

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from musicgen import MusicGen, Request
from musicgen.errors import ModelError
from musicgen.patterns import layout
from tests.fixtures.checkpoints import STEREO, TEXT, write_checkpoint
from tests.fixtures.engines import make_engine
from tests.musicgen.conditioning.music import encoded, tune
from tests.musicgen.engine.conftest import PATHS, SilentCodec, codes, run

WINDOW = 24  # frames
STRIDE = 15
# The checkpoint's channels, what its config says, the layout meant, and its steps for t frames (docs: the paper's table
# 4).
CASES = {
    "partial delay": (1, "partial_delay", "partial_delay", lambda t: t + 2),
    "parallel": (1, "parallel", "parallel", lambda t: t + 1),
    "flattening": (1, "flattening", "flattening", lambda t: 4 * t + 1),
    "partial flattening": (1, "partial_flattening", "partial_flattening", lambda t: 2 * t + 1),
    "coarse first": (1, "coarse_first", "coarse_first", lambda t: 2 * t + 1),
    "stereo delay": (2, "delay", "stereo_delay", lambda t: t + 4),
    "stereo partial delay": (2, "partial_delay", "stereo_partial_delay", lambda t: t + 2),
    "stereo parallel": (2, "parallel", "parallel", lambda t: t + 1),
    "stereo flattening": (2, "flattening", "flattening", lambda t: 8 * t + 1),
    "stereo coarse first": (2, "coarse_first", "coarse_first", lambda t: 2 * t + 1),
}
GREEDY = Request("warm slow piano", duration_s=0.3, temperature=0.0, stride_s=STRIDE / 50, seed=3)


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """One by its number of channels, with a table of positions that allows windows of `WINDOW` frames."""
    folder = tmp_path_factory.mktemp("patterns")
    return {
        kind.channels: write_checkpoint(
            folder / str(kind.channels), replace(kind, codebook_size=32, max_positions=WINDOW + kind.codebooks), seed=9
        )
        for kind in (TEXT, STEREO)
    }


@pytest.fixture(scope="module")
def oracles(checkpoints: dict[int, Path]) -> dict[int, Any]:
    from transformers import MusicgenForConditionalGeneration

    return {
        channels: MusicgenForConditionalGeneration.from_pretrained(folder).eval()
        for channels, folder in checkpoints.items()
    }


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest, checkpoints: dict[int, Path], tmp_path: Path) -> Iterator[tuple[Any, ...]]:
    """The loaded checkpoint whose config names the pattern, and the rest of its line in `CASES`."""
    channels, named, meant, steps = CASES[request.param]
    folder = Path(shutil.copytree(checkpoints[channels], tmp_path / "model"))
    config = json.loads((folder / "config.json").read_text())
    config["decoder"]["codebook_pattern"] = named
    (folder / "config.json").write_text(json.dumps(config))
    with MusicGen.from_pretrained(str(folder), device="cpu", dtype="float32", slots=3) as model:
        assert model.spec.max_frames == WINDOW
        yield model, channels, meant, steps


class Oracle:
    """Greedy codes of one request, step by step."""

    def __init__(self, reference: Any, model: MusicGen, pattern: str):
        self.reference, self.pattern = reference, pattern
        self.tokenizer: Any = model.model.text.embedder.tokenizer  # type: ignore[attr-defined]
        self.special = model.spec.special_token

    @torch.inference_mode()
    def codes(self, request: Request, prompt: NDArray[np.int16] | None = None) -> NDArray[np.int64]:
        """The clip [codebooks, frames] that begins with `prompt`: window after window, each with its known codes."""
        frames, books = request.frames(50), self.reference.decoder.num_codebooks
        codes = np.full((books, frames), -1)
        if prompt is not None:
            codes[:, : prompt.shape[1]] = prompt
        start = 0
        while (codes < 0).any():
            codes[:, start : start + WINDOW] = self._window(request, codes[:, start : start + WINDOW])
            start += STRIDE
        return codes

    def _window(self, request: Request, codes: NDArray[np.int64]) -> NDArray[np.int64]:
        codes = codes.copy()
        steps = layout(self.pattern, *codes.shape)
        sequence = torch.full((len(codes), len(steps)), self.special)
        for number, step in enumerate(steps):
            logits = None
            for frame, book in step:
                if codes[book, frame] < 0:
                    logits = self._logits(request, sequence[:, :number]) if logits is None else logits
                    codes[book, frame] = int(logits[book].argmax())
                sequence[book, number] = int(codes[book, frame])
        return codes

    def _logits(self, request: Request, sequence: torch.Tensor) -> torch.Tensor:
        """What follows the steps so far, [codebooks, codes]."""
        if not request.prompt:
            text = torch.zeros(1, 1, self.reference.config.decoder.hidden_size)
        else:
            ids = torch.tensor([self.tokenizer(request.prompt)])
            text = self.reference.enc_to_dec_proj(self.reference.text_encoder(ids).last_hidden_state)
        with_text, without = (self._run(sequence, states) for states in (text, torch.zeros_like(text)))
        return without + request.guidance_scale * (with_text - without)

    def _run(self, sequence: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
        out = self.reference.decoder(input_ids=sequence, encoder_hidden_states=text, use_cache=False).logits
        return out[:, -1]


def test_codes_are_those_of_the_oracle_in_as_many_steps_as_the_pattern_has(
    case: Any, oracles: Any, tmp_path: Path
) -> None:
    model, channels, meant, steps = case
    oracle = Oracle(oracles[channels], model, meant)
    sound = tune(0.2, notes=(48, 55, 64), note_s=0.1)
    (tmp_path / "intro.wav").write_bytes(encoded(sound, subtype="FLOAT"))
    intro = model.encode(sound)
    assert intro.shape == (4 * channels, 10)
    continued = replace(GREEDY, continuation=str(tmp_path / "intro.wav"), duration_s=0.4)
    rows = {
        "plain": (GREEDY, None),
        "unguided": (replace(GREEDY, prompt="loud drums", guidance_scale=1.0, duration_s=0.1), None),
        "nothing": (replace(GREEDY, prompt="", duration_s=0.02), None),
        "continued": (continued, intro),
        "long": (replace(GREEDY, duration_s=0.8), None),
        "continued and long": (replace(continued, duration_s=0.6, guidance_scale=2.0), intro),
    }
    together = dict(zip(rows, model.generate([request for request, _ in rows.values()]), strict=True))
    for name, (request, prompt) in rows.items():
        found, expected = together[name].codes, oracle.codes(request, prompt)
        assert np.array_equal(found, expected), (name, np.argwhere(found != expected)[:3])
        assert found.size < 100 or len(np.unique(found)) > 5
        assert together[name].audio.shape == (channels, 640 * found.shape[1])
        before = model._engine.steps
        (alone,) = model.generate([request])
        assert np.array_equal(alone.codes, found), name
        took = model._engine.steps - before
        if name == "plain":
            assert took == steps(15) - 1  # the last step is output alone
        if name == "continued":
            assert took < steps(20) - 1


def test_sampled_rows_are_the_same_alone_and_in_a_mix(case: Any) -> None:
    model, channels, _, _ = case
    rows = [Request(f"song {i}", duration_s=0.06 + 0.14 * i, top_p=0.9 * (i % 2), stride_s=0.3) for i in range(5)]
    together = model.generate(rows)
    for row, clip in zip(rows, together, strict=True):
        (alone,) = model.generate([row])
        assert np.array_equal(alone.codes, clip.codes)
        assert np.array_equal(alone.audio, clip.audio)
        assert clip.codes.shape == (4 * channels, row.frames(50))
        assert 0 <= clip.codes.min() <= clip.codes.max() < 32


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("name", ["flattening", "coarse_first"])
def test_every_path_of_the_engine_runs_them(load: Any, checkpoints: dict[int, Path], path: str, name: str) -> None:
    """In float32 to the same greedy codes, and everywhere to the same codes alone and in a mix."""
    model = replace(load(checkpoints[1], path), codec=SilentCodec())
    model = replace(model, checkpoint=replace(model.checkpoint, spec=replace(model.spec, pattern=name)))
    rows = [replace(GREEDY, prompt=f"song {i}", duration_s=0.1 + 0.2 * i) for i in range(4)]
    together = run(make_engine(model, slots=3), rows)
    for row in rows:
        assert np.array_equal(codes(run(make_engine(model, slots=3), [row])[row]), codes(together[row]))
    if path == "eager-float32":
        native = run(make_engine(replace(model, decoder=load(checkpoints[1], "native-float32").decoder), slots=3), rows)
        assert all(np.array_equal(codes(native[row]), codes(together[row])) for row in rows)


def test_a_pattern_that_nobody_knows_is_refused_on_loading(checkpoints: dict[int, Path], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(checkpoints[1], tmp_path / "model"))
    config = json.loads((folder / "config.json").read_text())
    config["decoder"]["codebook_pattern"] = "spiral"
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match="unknown codebook pattern 'spiral'; known are delay, partial_delay"):
        MusicGen.from_pretrained(str(folder))
