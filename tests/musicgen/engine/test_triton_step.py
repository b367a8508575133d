"""The whole step by Triton's interpreter: transformers' greedy codes, the torch path's draws, and one graph."""

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from musicgen.conditioning.conditions import Branch, Conditions
from musicgen.engine import prefill
from musicgen.engine.sequence import GENERATE, Window
from musicgen.engine.stepper import Stepper
from musicgen.model.decoder.triton_ops import KERNEL_REVISION, TritonOps
from musicgen.request import Request
from tests.fixtures.engines import make_engine
from tests.fixtures.random_checkpoint import Sizes, write_checkpoint
from tests.musicgen.engine import test_parity
from tests.musicgen.engine.conftest import SilentCodec, codes, run
from tests.musicgen.model.graph_recorder import Recorder

pytest.importorskip("triton", reason="no triton")
pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="python -m tests.gpu checks the step on a card")


def with_triton(model: Any, make_capture: Any = None) -> Any:
    """The same model, over the same weights (the torch path's), with the step of CUDA."""
    decoder = copy.copy(model.decoder)
    decoder.ops = TritonOps(decoder.device, decoder.dtype, make_capture)
    return replace(model, decoder=decoder, codec=SilentCodec())


def test_greedy_codes_equal_transformers(load: Any, text_checkpoint: Path) -> None:
    model = with_triton(load(text_checkpoint, "eager-float32"))
    test_parity.compare(model, text_checkpoint, [("slow piano", 0.2, 3.0), ("x", 0.08, 1.0)], slots=2, max_frames=10)


def test_draws_equal_the_torch_paths_in_another_order_and_by_one_graph(load: Any, tmp_path: Path) -> None:
    sizes = Sizes(hidden=16, layers=1, heads=2, ffn=32, codebook_size=32)
    plain = replace(load(write_checkpoint(tmp_path, sizes, seed=3), "eager-float32"), codec=SilentCodec())
    requests = [
        Request(prompt="slow piano", duration_s=0.08, top_k=5, seed=4),
        Request(prompt="drums", duration_s=0.04, top_p=0.9, top_k=0, seed=5),
        Request(prompt="", duration_s=0.06, temperature=0.0, guidance_scale=1.0, seed=6),
    ]
    expected = run(make_engine(plain, slots=2, max_frames=5), requests)
    recorder = Recorder()
    engine = make_engine(with_triton(plain, lambda: recorder), slots=2, max_frames=5)
    outcomes = run(engine, requests[::-1])
    for request in requests:
        assert np.array_equal(codes(outcomes[request]), codes(expected[request])), request
    assert recorder.captured == 1, "lengths and parameters are data"
    assert json.loads(engine.fingerprint)["path"] == f"triton-r{KERNEL_REVISION}-graphs"


@pytest.mark.parametrize("kind", ["text", "melody"])
def test_prefill_of_all_branches_together_fills_the_cache_as_the_torch_path_does(
    load: Any, kind: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prefill, "SPAN_POSITIONS", 5)  # two chunks, five with a prefix
    model = load(request.getfixturevalue(f"{kind}_checkpoint"), "eager-float32")
    hidden, generator = model.spec.hidden, torch.Generator().manual_seed(1)
    sequence = np.full((4, 30), GENERATE, np.int32)
    sequence[:, :9] = np.arange(36).reshape(4, 9)
    if kind == "text":
        conditions = Conditions((Branch(cross=torch.randn(7, hidden, generator=generator)), Branch()), 3.0)
    else:
        prefixes = torch.randn(2, 13, hidden, generator=generator)
        conditions = Conditions((Branch(prefix=prefixes[0]), Branch(prefix=prefixes[1])), 3.0)
    caches = []
    for each in (model, with_triton(model)):
        stepper = Stepper(each.decoder, slots=2, width=2, capacity=64)
        stepper.place(1, Window(0, 0, 26, sequence, 9), conditions, Request(prompt="x", seed=1))
        caches.append(stepper.cache)
    positions = 8 if kind == "text" else 21
    for expected, layer in zip(caches[0].layers, caches[1].layers, strict=True):
        for expected_store, store in zip(expected, layer, strict=True):
            pieces = store[1::2, :, :positions], expected_store[1::2, :, :positions]
            torch.testing.assert_close(*pieces, atol=1e-5, rtol=1e-5)
            assert pieces[0].any()
            assert not store[0::2].any(), "the other slot's rows"
