"""Captured steps give the codes of eager ones, bit for bit: over lengths, mixes, longer windows, and out of memory."""

import copy
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from musicgen.engine import Engine
from musicgen.model.decoder.torch_ops import TorchOps
from musicgen.request import Request
from tests.fixtures.engines import make_engine
from tests.musicgen.engine.conftest import SilentCodec, codes, run
from tests.musicgen.engine.test_reproducible import requests
from tests.musicgen.model.graph_recorder import Recorder


class Made(list[Recorder]):
    """Recorders, in the order in which engines asked for them."""

    def __call__(self) -> Recorder:
        self.append(Recorder())
        return self[-1]


@pytest.fixture(params=["eager-float32", pytest.param("eager-bfloat16", marks=pytest.mark.slow)])
def model(load: Any, text_checkpoint: Path, request: pytest.FixtureRequest) -> Any:
    return replace(load(text_checkpoint, request.param), codec=SilentCodec())


def with_capture(model: Any, make_capture: Any) -> Any:
    """The same model, over the same weights, with steps that are captured."""
    decoder = copy.copy(model.decoder)
    decoder.ops = TorchOps(decoder.device, decoder.dtype, decoder.ops.name, make_capture)
    return replace(model, decoder=decoder)


def compare(model: Any, make: Any, mixes: list[list[Request]]) -> tuple[Made, Engine]:
    """The same mixes through an engine with graphs and one without."""
    calm, made = make(model), Made()
    assert json.loads(calm.fingerprint)["path"] == "eager (a test)"
    expected = [run(calm, mix) for mix in mixes]
    engine = make(with_capture(model, made))
    for mix, wanted in zip(mixes, expected, strict=True):
        for request, outcome in run(engine, mix).items():
            assert np.array_equal(codes(outcome), codes(wanted[request])), request
    return made, engine


def test_captured_steps_make_the_same_codes(model: Any) -> None:
    """Every kind of request, events in every step, and a cache and a sequence that grow between them."""
    pool = requests(14, seed=21)
    long = [Request(prompt="slow piano", duration_s=s, top_k=k, seed=4) for s, k in ((2.9, 250), (0.4, 0), (1.1, 250))]
    wordy = Request(prompt="piano " * 90, duration_s=0.3, seed=5)
    made, engine = compare(
        model, lambda model: make_engine(model, slots=3, max_frames=30), [pool[:7], long, [wordy, *pool[7:], long[0]]]
    )
    (recorder,) = made
    assert recorder.captured >= 5, "two lengths, top-k and top-p and neither, and again after growing"
    assert json.loads(engine.fingerprint)["path"] == "eager (a test)-graphs"


def test_graphs_are_captured_anew_after_a_lack_of_memory(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = [Request(prompt=f"piano {i}", duration_s=0.3 + 0.04 * i, seed=1) for i in range(5)]
    half = run(make_engine(model, slots=2), wanted)
    made = Made()
    engine = make_engine(with_capture(model, made), slots=4)
    step, calls = type(engine._stepper)._run_step, 0

    def tight(self: Any, *arguments: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise MemoryError
        step(self, *arguments)

    monkeypatch.setattr(type(engine._stepper), "_run_step", tight)
    outcomes = run(engine, wanted)
    assert engine.slots == 2
    assert [recorder.captured > 0 for recorder in made] == [False, True]
    assert calls < 10, "the others were replayed"
    assert all(np.array_equal(codes(outcomes[request]), codes(half[request])) for request in wanted)


def test_a_capture_without_memory_halves_the_slots_and_is_taken_anew(model: Any) -> None:
    wanted = [Request(prompt=f"piano {i}", duration_s=0.3 + 0.04 * i, seed=1) for i in range(5)]
    half = run(make_engine(model, slots=2), wanted)

    class Cramped(Recorder):
        """It has memory for the captures of two slots, not of four."""

        def capture(self, work: Callable[[], None]) -> Callable[[], None]:
            if engine.slots == 4:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return super().capture(work)

    made: list[Cramped] = []

    def make_capture() -> Recorder:
        made.append(Cramped())
        return made[-1]

    engine = make_engine(with_capture(model, make_capture), slots=4)
    for request, outcome in run(engine, wanted).items():
        assert np.array_equal(codes(outcome), codes(half[request])), request
    first, second = made
    assert (first.captured, engine.slots) == (0, 2)
    assert second.captured, "fewer slots are captured"
    assert json.loads(engine.fingerprint)["path"] == "eager (a test)-graphs"
