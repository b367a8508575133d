"""The check that an engine does on a GPU at its start: it passes what is reproducible, and names what is not."""

import copy
import json
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from musicgen.clip import Clip
from musicgen.engine.self_check import check_reproducible
from musicgen.model.decoder.ops import PackedWeight
from musicgen.model.decoder.torch_ops import TorchOps
from musicgen.request import Request
from tests.fixtures.engines import make_engine
from tests.musicgen.engine.conftest import SilentCodec, run
from tests.musicgen.model.graph_recorder import Recorder


class RowDependentOps(TorchOps):
    """A row's products depend on its place by their last bits, as stream-K products may."""

    def linear(self, x: Tensor, weight: PackedWeight, activate: bool = False) -> Tensor:
        return super().linear(x, weight, activate) * (1 + torch.arange(x.shape[0])[:, None] * 2e-7)


class WrongCapture(Recorder):
    """Its graphs do nothing."""

    def capture(self, work: Callable[[], None]) -> Callable[[], None]:
        super().capture(work)
        return lambda: None


class ChangingCodec(SilentCodec):
    """It never makes the same sound twice."""

    def __init__(self) -> None:
        self.calls = 0

    def decode(self, codes: np.ndarray) -> np.ndarray:
        self.calls += 1
        return super().decode(codes) + self.calls


@pytest.mark.parametrize("kind", ["text", "melody"])
def test_what_is_reproducible_passes(load: Any, kind: str, request: pytest.FixtureRequest) -> None:
    decoder = with_ops(load(request.getfixturevalue(f"{kind}_checkpoint"), "eager-float32"), TorchOps, Recorder)
    assert check_reproducible(decoder, SilentCodec(), slots=3, width=2) == "same"


def test_what_is_not_reproducible_is_named(
    load: Any, text_checkpoint: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.root.manager, "disable", logging.NOTSET)  # a command in this process may have set it
    model = load(text_checkpoint, "eager-float32")
    wrong = with_ops(model, RowDependentOps, None)
    assert check_reproducible(wrong, SilentCodec(), slots=3, width=2) == "slots"
    assert check_reproducible(wrong, SilentCodec(), slots=1, width=2) == "same"
    wrong = with_ops(model, TorchOps, WrongCapture)
    assert check_reproducible(wrong, ChangingCodec(), slots=3, width=2) == "graphs,codec"
    assert "graphs, codec differ" in caplog.text

    def fail(*arguments: object, **named: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("musicgen.engine.self_check._run_clips", fail)
    assert check_reproducible(wrong, SilentCodec(), slots=3, width=2) == "out of memory"


def test_the_check_is_repeated_with_half_the_slots(
    load: Any, text_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = make_engine(replace(load(text_checkpoint, "eager-float32"), codec=SilentCodec()), slots=2)
    engine._self_check = "same"  # as on a GPU
    step, checked = type(engine._stepper).step, []

    def check(decoder: Any, codec: Any, slots: int, width: int) -> str:
        assert engine._allocated_stepper is None, "the memory of the larger caches is needed for the check"
        checked.append(slots)
        return "slots"

    def tight(self: Any, count: int = 1) -> None:
        if self.slots == 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        step(self, count)

    monkeypatch.setattr("musicgen.engine.engine.check_reproducible", check)
    monkeypatch.setattr(type(engine._stepper), "step", tight)
    request = Request(prompt="x", duration_s=0.1, seed=1)
    clip = run(engine, [request])[request]
    assert isinstance(clip, Clip)
    assert checked == [1]
    assert json.loads(clip.engine)["self_check"] == "slots"


def with_ops(model: Any, kind: type[TorchOps], make_capture: Any) -> Any:
    """The model's decoder with other operations over the same weights."""
    decoder = copy.copy(model.decoder)
    decoder.ops = kind(decoder.device, decoder.dtype, "eager (a test)", make_capture)
    return replace(model, decoder=decoder).decoder
