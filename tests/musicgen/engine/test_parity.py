"""Greedy codes equal transformers' `MusicgenForConditionalGeneration` in float32, code for code."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from musicgen.request import Request
from tests.fixtures.engines import make_engine
from tests.fixtures.random_checkpoint import Sizes, write_checkpoint
from tests.musicgen.engine.conftest import SilentCodec, codes, run

PROMPTS = [
    ("slow piano", 0.4, 3.0),
    (
        "fast heavy drums and bass with a loud guitar in the city, a long prompt that goes on and on about brass "
        "and strings",
        1.0,
        3.0,
    ),
    ("x", 0.62, 1.0),
    ("warm pad", 2.2, 2.5),
    ("short", 0.08, 3.0),  # transformers lays out fewer frames than delays in no pattern at all
]


def reference(folder: Path) -> Any:
    from transformers import MusicgenForConditionalGeneration

    return MusicgenForConditionalGeneration.from_pretrained(folder).eval()


def reference_codes(model: Any, folder: Path, request: Request) -> NDArray[np.integer]:
    """transformers' greedy codes [codebooks, frames] of one request: what it hands to its codec."""
    from transformers import AutoTokenizer

    frames = request.frames(50)
    handed: list[torch.Tensor] = []
    decode = model.audio_encoder.decode
    model.audio_encoder.decode = lambda audio_codes, *rest, **named: (
        handed.append(audio_codes) or decode(audio_codes, *rest, **named)
    )
    try:
        ids = AutoTokenizer.from_pretrained(folder)([request.prompt], return_tensors="pt")
        delays = model.decoder.num_codebooks // model.config.decoder.audio_channels - 1
        with torch.inference_mode():
            model.generate(
                **ids, do_sample=False, guidance_scale=request.guidance_scale, max_new_tokens=frames + delays
            )
    finally:
        model.audio_encoder.decode = decode
    channels = [h.reshape(-1, h.shape[-1]).numpy() for h in handed]  # one per audio channel
    return np.stack(channels, axis=1).reshape(-1, channels[0].shape[-1])


def compare(model: Any, folder: Path, prompts: list[tuple[str, float, float]], slots: int) -> None:
    from dataclasses import replace

    requests = [Request(prompt=p, duration_s=d, guidance_scale=g, temperature=0.0, seed=0) for p, d, g in prompts]
    engine = make_engine(replace(model, codec=SilentCodec()), slots=slots)
    outcomes = run(engine, requests)
    engine.close()
    oracle = reference(folder)
    for request in requests:
        ours, theirs = codes(outcomes[request]), reference_codes(oracle, folder, request)
        assert np.array_equal(ours, theirs), (request, np.argwhere(ours != theirs)[:3])
        if ours.size > 200:
            assert len(np.unique(ours)) > 5


@pytest.mark.parametrize("path", ["native-float32", "eager-float32"])
@pytest.mark.parametrize("checkpoint", ["text_checkpoint", "deeper_checkpoint", "stereo_checkpoint"])
def test_greedy_codes_equal_transformers(load: Any, request: pytest.FixtureRequest, checkpoint: str, path: str) -> None:
    folder = request.getfixturevalue(checkpoint)
    compare(load(folder, path), folder, PROMPTS if checkpoint != "stereo_checkpoint" else PROMPTS[1:], slots=2)


def test_greedy_codes_equal_transformers_with_odd_sizes(load: Any, tmp_path: Path) -> None:
    """Widths that fill no vector, head width 10, no projection of the text states."""
    folder = write_checkpoint(
        tmp_path, Sizes(hidden=40, layers=1, heads=4, ffn=52, codebook_size=32, text_hidden=40), seed=9
    )
    compare(load(folder), folder, PROMPTS[:3], slots=3)


@pytest.mark.slow
def test_greedy_codes_equal_transformers_at_the_true_shape_of_musicgen_small(load: Any, tmp_path: Path) -> None:
    small = Sizes(hidden=1024, layers=24, heads=16, ffn=4096, codebook_size=2048, text_hidden=768)
    folder = write_checkpoint(tmp_path, small, seed=4)
    compare(load(folder), folder, [("a warm piano in the night with rain", 4.0, 3.0)], slots=2)
