"""Captured steps give the codes of eager ones, bit for bit: over lengths, mixes, longer windows, and a lack of memory."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from musicgen.engine import Engine
from musicgen.request import Request
from tests.musicgen.engine.conftest import SilentCodec, codes, run
from tests.musicgen.engine.test_reproducible import requests
from tests.musicgen.model.graph_recorder import Recorder


class Made(list[Recorder]):
    """Recorders, in the order in which engines asked for them."""

    def __call__(self) -> Recorder:
        self.append(Recorder())
        return self[-1]


@pytest.fixture(params=["eager-float32", "eager-bfloat16"])
def model(load: Any, text_checkpoint: Path, request: pytest.FixtureRequest) -> Iterator[Any]:
    model = replace(load(text_checkpoint, request.param), codec=SilentCodec())
    yield model
    model.decoder.ops.capture = None  # it is loaded once for all tests


def compare(model: Any, make: Any, mixes: list[list[Request]]) -> tuple[Made, Engine]:
    """The same mixes through an engine with graphs and one without."""
    calm, made = make(), Made()
    assert json.loads(calm.fingerprint)["path"] == "eager (a test)"
    expected = [run(calm, mix) for mix in mixes]
    model.decoder.ops.capture = made
    engine = make()
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
        model, lambda: Engine(model, slots=3, max_frames=30), [pool[:7], long, [wordy, *pool[7:], long[0]]]
    )
    (recorder,) = made
    assert recorder.captured >= 5, "two lengths, top-k and top-p and neither, and again after growing"
    assert json.loads(engine.fingerprint)["path"] == "eager (a test)-graphs"


def test_graphs_are_captured_anew_after_a_lack_of_memory(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = [Request(prompt=f"piano {i}", duration_s=0.3 + 0.04 * i, seed=1) for i in range(5)]
    half = run(Engine(model, slots=2), wanted)
    model.decoder.ops.capture = made = Made()
    engine = Engine(model, slots=4)
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
