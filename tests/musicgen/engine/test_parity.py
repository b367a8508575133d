"""Greedy codes equal transformers' `MusicgenForConditionalGeneration` in float32, code for code."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from musicgen.request import Request
from tests.fixtures.engines import make_engine
from tests.fixtures.random_checkpoint import Sizes, write_checkpoint
from tests.fixtures.transformers_codes import load_reference, reference_codes
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


def compare(
    model: Any, folder: Path, prompts: list[tuple[str, float, float]], slots: int, max_frames: int | None = None
) -> None:
    from dataclasses import replace

    requests = [Request(prompt=p, duration_s=d, guidance_scale=g, temperature=0.0, seed=0) for p, d, g in prompts]
    engine = make_engine(replace(model, codec=SilentCodec()), slots=slots, max_frames=max_frames)
    outcomes = run(engine, requests)
    engine.close()
    oracle = load_reference(folder)
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


@pytest.mark.parametrize("path", ["native-float32", "eager-float32"])
def test_greedy_codes_equal_transformers_with_an_odd_feed_forward_width(load: Any, tmp_path: Path, path: str) -> None:
    folder = write_checkpoint(tmp_path, Sizes(layers=2, ffn=33), seed=6)
    compare(load(folder, path), folder, PROMPTS[:3], slots=2)


def test_embeddings_are_not_scaled_whatever_the_config_says(load: Any, tmp_path: Path) -> None:
    """transformers reads `scale_embedding` and never uses it; audiocraft has no such factor."""
    folder = write_checkpoint(tmp_path, Sizes(), seed=7)
    config = json.loads((folder / "config.json").read_text())
    config["decoder"]["scale_embedding"] = True
    (folder / "config.json").write_text(json.dumps(config))
    compare(load(folder), folder, PROMPTS[:2], slots=2)


@pytest.mark.slow
def test_greedy_codes_equal_transformers_at_the_true_shape_of_musicgen_small(load: Any, tmp_path: Path) -> None:
    small = Sizes(hidden=1024, layers=24, heads=16, ffn=4096, codebook_size=2048, text_hidden=768)
    folder = write_checkpoint(tmp_path, small, seed=4)
    compare(load(folder), folder, [("a warm piano in the night with rain", 4.0, 3.0)], slots=2)
