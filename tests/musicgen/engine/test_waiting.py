"""Running slots do not wait: for other slots' long beginnings, for many new clips, or for codes to reach the host."""

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from musicgen.conditioning.conditions import Branch, Conditions
from musicgen.engine import Engine, prefill
from musicgen.engine import stepper as stepper_module
from musicgen.engine.device_copies import HostCopy
from musicgen.engine.sequence import GENERATE, Window
from musicgen.engine.stepper import Stepper
from musicgen.model.decoder.triton_ops import TritonOps
from musicgen.request import Request
from tests.fixtures.engines import make_engine
from tests.musicgen.engine.conftest import SilentCodec, codes, run
from tests.musicgen.engine.test_engine import Spoken, ask

KNOWN_FRAMES = 300


def record_work(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """What the engine runs, in order: ("step" or "prefill", its tokens)."""
    work: list[tuple[str, int]] = []
    stepper, forward, run_step = engine._stepper, engine._decoder.forward, engine._stepper._run_step
    kind = ["prefill"]

    def note_forward(x: Any, tokens: Any, cache: Any) -> Any:
        work.append((kind[0], x.shape[0]))
        return forward(x, tokens, cache)

    def note_step(*arguments: Any) -> None:
        kind[0] = "step"
        run_step(*arguments)
        kind[0] = "prefill"

    monkeypatch.setattr(engine._decoder, "forward", note_forward)
    monkeypatch.setattr(stepper, "_run_step", note_step)
    return work


@pytest.mark.parametrize("path", ["native-float32", "native-bfloat16", "eager-float32"])
def test_a_long_beginning_is_filled_between_the_steps_of_others(
    load: Any, text_checkpoint: Path, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = replace(load(text_checkpoint, path), codec=SilentCodec())
    generator = torch.Generator().manual_seed(2)
    forced = {"known": torch.randint(0, 64, (4, KNOWN_FRAMES), generator=generator, dtype=torch.int16)}
    first, late = ask("first", 1.6), [ask("known", 6.3), *(ask(f"new {i}", 0.2 + 0.02 * i) for i in range(4))]
    calm = make_engine(model, slots=6, conditioner=Spoken(model, forced))
    expected = {request: codes(run(calm, [request])[request]) for request in (first, *late)}
    engine = make_engine(model, slots=6, conditioner=Spoken(model, forced))
    work = record_work(engine, monkeypatch)
    engine.add(first)
    engine.step()
    begun, step_tokens = len(work), work[-1][1]
    outcomes = run(engine, late)
    assert all(np.array_equal(codes(outcomes[request]), expected[request]) for request in expected)
    waits, waited = [], 0
    for kind, tokens in work[begun:]:
        if kind == "step":
            waits.append(waited)
            step_tokens, waited = tokens, 0
        else:
            waited += tokens
            limit = 128 if path.startswith("eager") else max(4 * step_tokens, 32)
            assert waited <= limit, "four steps' tokens, or the smallest chunk, between two steps"
    assert sum(waits) >= 2 * KNOWN_FRAMES
    assert sum(wait > 0 for wait in waits) >= 2 * KNOWN_FRAMES // 128


def test_without_running_slots_all_are_filled_at_once(
    load: Any, text_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = replace(load(text_checkpoint), codec=SilentCodec())
    forced = {name: torch.zeros(4, 40, dtype=torch.int16) for name in "abc"}
    engine = make_engine(model, slots=3, conditioner=Spoken(model, forced))
    work = record_work(engine, monkeypatch)
    for name in forced:
        engine.add(ask(name, 1.0))
    for waiting in engine._scheduler.waiting:
        engine._prepare(waiting).result()
    run(engine, [])
    kinds = [kind for kind, _ in work]
    assert kinds.index("step") == kinds.count("prefill") == 6


@pytest.mark.slow
def test_chunks_between_steps_give_the_same_bits_with_triton(
    load: Any, melody_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("triton", reason="no triton")
    monkeypatch.setattr(prefill, "SPAN_POSITIONS", 4)
    monkeypatch.setattr(stepper_module, "_WAIT_STEPS", 1)
    decoder = copy.copy(load(melody_checkpoint, "eager-float32").decoder)
    decoder.ops = TritonOps(decoder.device, decoder.dtype)
    decoder.layers = decoder.layers[:1]
    prefixes = torch.randn(3, 5, decoder.spec.hidden, generator=torch.Generator().manual_seed(1))
    conditions = [Conditions((Branch(prefix=prefix), Branch(prefix=prefixes[2])), 3.0) for prefix in prefixes[:2]]

    def window(known: int) -> Window:
        sequence = np.full((4, 16), GENERATE, np.int32)
        sequence[:, :known] = 3
        return Window(0, 0, 12, sequence, known)

    def run_both(interleaved: bool) -> Stepper:
        stepper = Stepper(decoder, slots=2, width=2, capacity=32)
        stepper.place(0, window(1), conditions[0], Request(prompt="x", seed=1))
        stepper.step()
        stepper.begin_placing(1, window(6), conditions[1], Request(prompt="y", seed=2))
        if interleaved:
            rounds = 1
            while not stepper.fill_slots():
                rounds += 1
                stepper.step()
            assert rounds >= 4, "the text, and three chunks"
            stepper.step()
        else:
            while not stepper.fill_slots():
                pass
            stepper.step()
        return stepper

    straight, found = run_both(interleaved=False), run_both(interleaved=True)
    assert torch.equal(found.sequence[1, :, :7], straight.sequence[1, :, :7])
    for stores in zip(found.cache.layers[-1], straight.cache.layers[-1], strict=True):
        assert torch.equal(*(store[1::2, :, :11] for store in stores))


@pytest.mark.parametrize("leaves_at_once", [True, False])
def test_no_step_waits_for_codes_on_their_way_to_the_host(
    load: Any, text_checkpoint: Path, monkeypatch: pytest.MonkeyPatch, leaves_at_once: bool
) -> None:
    model = load(text_checkpoint)
    model = replace(model, codec=SilentCodec())
    short = replace(model, checkpoint=replace(model.checkpoint, spec=replace(model.spec, max_frames=40)))
    wanted = [ask("long", 1.6, stride_s=0.4), *(ask(f"piano {i}", 0.1 + 0.06 * i) for i in range(7))]
    expected = run(make_engine(short, slots=3, conditioner=Spoken(short)), wanted)
    engine = make_engine(short, slots=3, conditioner=Spoken(short))
    asked: dict[int, int] = {}
    waits: list[int] = []  # steps that could have run meanwhile

    def is_done(copied: HostCopy) -> bool:
        asked[id(copied)] = asked.get(id(copied), 0) + 1
        return asked[id(copied)] > 2

    def read(copied: HostCopy) -> Any:
        if asked.get(id(copied), 0) <= 2:
            waits.append(engine._scheduler.horizon)
        return copied._numbers.numpy()

    monkeypatch.setattr(HostCopy, "is_done", property(is_done))
    monkeypatch.setattr(HostCopy, "read", read)
    monkeypatch.setattr(Stepper, "reads_live_positions_alone", leaves_at_once)
    kept: list[HostCopy] = []  # so that no two have the same id
    take = engine._stepper.take

    def take_and_keep(*arguments: Any) -> HostCopy:
        kept.append(take(*arguments))
        return kept[-1]

    monkeypatch.setattr(engine._stepper, "take", take_and_keep)
    outcomes = run(engine, wanted)
    assert all(np.array_equal(codes(outcomes[request]), codes(expected[request])) for request in wanted)
    assert not any(waits), "the host waits for codes only when no slot has a step to run"
    assert len(kept) == 7 + 3
