"""The engine's seam: what goes in comes out once, failures stay with their row, windows and forced codes, memory
running out.
"""

import json
import re
import shutil
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from musicgen.clip import Clip, Failed
from musicgen.conditioning.conditions import Branch, Conditions
from musicgen.errors import RowError
from musicgen.model.decoder import cpu_ops
from musicgen.request import Request
from musicgen.unfinished_clips import UnfinishedClips
from tests.fixtures.engines import make_engine
from tests.musicgen.engine.conftest import PATHS, SilentCodec, codes, run


@dataclass
class Spoken:
    """A conditioner for tests: text as the model has it, forced codes by prompt, and prompts that fail."""

    model: Any
    forced: dict[str, Any] = field(default_factory=dict)
    windows: list[tuple[str, int, int]] = field(default_factory=list)

    @property
    def sound_positions(self) -> int:
        return self.model.spec.chroma_length

    def expect(self, request: Request) -> None:
        pass

    def close(self) -> None:
        pass

    def prepare(self, requests: list[Request]) -> list[Any]:
        return [self._prepare(request) for request in requests]

    def _prepare(self, request: Request) -> Any:
        if request.prompt.startswith("broken"):
            return RowError("melody", "no such melody")
        text = self.model.text.encode(request.prompt)

        def window(start: int, frames: int) -> Conditions:
            self.windows.append((request.prompt, start, frames))
            return Conditions((Branch(cross=text.states), Branch()), request.guidance_scale)

        return SimpleNamespace(forced=self.forced.get(request.prompt), window=window, prompt_tokens=text.tokens)


@pytest.fixture
def model(load: Any, text_checkpoint: Path) -> Any:
    return replace(load(text_checkpoint), codec=SilentCodec())


def ask(prompt: str, seconds: float, **more: Any) -> Request:
    return Request(prompt=prompt, duration_s=seconds, seed=1, **more)


def test_what_goes_in_comes_out_once(model: Any) -> None:
    engine = make_engine(model, slots=3)
    assert not engine.busy
    assert engine.step() == []
    wanted = [ask(f"piano {i}", 0.02 + 0.02 * i) for i in range(11)]
    assert engine.room == 6
    outcomes = run(engine, wanted)
    assert set(outcomes) == set(wanted)
    for request in wanted:
        assert codes(outcomes[request]).shape == (4, request.frames(50))
        assert 0 <= codes(outcomes[request]).min() <= codes(outcomes[request]).max() < 64
    assert not engine.busy
    engine.close()


def test_how_far_clips_are_grows_with_the_decode_steps(model: Any) -> None:
    engine = make_engine(model, slots=2)
    assert engine.measure_unfinished() == UnfinishedClips()
    for duration_s in (1.0, 1.6):
        engine.add(ask(f"piano {duration_s}", duration_s))
    measured = []
    finished = 0
    while engine.busy:
        finished += len(engine.step())
        measured.append(finished + engine.measure_unfinished().clips)
    assert measured == sorted(measured)
    assert any(0.1 < clips < 0.9 for clips in measured)  # before the first one is decoded
    assert measured[-1] == 2
    assert engine.measure_unfinished() == UnfinishedClips()
    engine.close()


def test_a_clip_that_is_being_placed_counts_nothing_yet(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = make_engine(model, slots=2)
    stepper, measured = engine._stepper, []
    fill_slots = stepper.fill_slots

    def fill_and_measure() -> list[int]:
        measured.append(engine.measure_unfinished())
        return fill_slots()

    monkeypatch.setattr(stepper, "fill_slots", fill_and_measure)
    run(engine, [ask("piano", 1.0)])
    assert measured[0] == UnfinishedClips()
    engine.close()


def test_equal_requests_are_two_rows(model: Any) -> None:
    engine = make_engine(model, slots=2)
    engine.add(ask("piano", 0.1))
    engine.add(ask("piano", 0.1))
    found: list[Any] = []
    while engine.busy:
        found += engine.step()
    assert len(found) == 2
    assert np.array_equal(found[0].codes, found[1].codes)


def test_a_row_that_cannot_be_prepared_fails_alone(model: Any) -> None:
    engine = make_engine(model, slots=2, conditioner=Spoken(model))
    outcomes = run(engine, [ask(p, 0.1) for p in ("a", "broken 1", "b", "broken 2", "c")])
    failed = {
        request.prompt: outcome.error.error_class
        for request, outcome in outcomes.items()
        if isinstance(outcome, Failed)
    }
    assert failed == {"broken 1": "melody", "broken 2": "melody"}
    assert sum(isinstance(outcome, Clip) for outcome in outcomes.values()) == 3


def test_what_the_model_cannot_do_is_refused_at_once(model: Any) -> None:
    engine = make_engine(model, slots=1)
    with pytest.raises(RowError, match="musicgen-melody"):
        engine.add(ask("a", 1.0, melody="x.wav"))
    with pytest.raises(ValueError, match="resolve"):
        engine.add(Request(prompt="a"))
    assert not engine.busy
    with pytest.raises(ValueError, match="slots"):
        make_engine(model, slots=0)


def test_a_codec_that_fails_on_one_clip_fails_one_clip(model: Any) -> None:
    class Fragile(SilentCodec):
        def decode(self, codes: Any) -> Any:
            if codes.shape[1] == 7:
                raise ValueError("odd")
            if codes.shape[1] == 8:
                return np.full((1, 8), np.nan, np.float32)
            return super().decode(codes)

    engine = make_engine(replace(model, codec=Fragile()), slots=2)
    outcomes = run(engine, [ask("a", 0.02 * frames) for frames in (6, 7, 8, 9)])
    assert [isinstance(o, Clip) for o in sorted(outcomes.values(), key=lambda o: o.request.duration_s)] == [
        True,
        False,
        False,
        True,
    ]


def test_a_clip_longer_than_the_window_is_made_of_windows(model: Any) -> None:
    """Windows as the design says; and the first window's codes are those of a clip that ends there."""
    short = replace(model, checkpoint=replace(model.checkpoint, spec=replace(model.spec, max_frames=50)))
    conditioner = Spoken(short)
    long = ask("long", 3.0, stride_s=0.6)
    engine = make_engine(short, slots=2, conditioner=conditioner)
    outcomes = run(engine, [long, ask("beside", 0.3), replace(long, duration_s=1.0), ask("after", 0.5)])
    assert codes(outcomes[long]).shape == (4, 150)
    assert [w[1:] for w in conditioner.windows if w[0] == "long" and w[1]] == [(30, 50), (60, 50), (90, 50), (120, 30)]
    first = codes(outcomes[replace(long, duration_s=1.0)])
    assert np.array_equal(codes(outcomes[long])[:, :50], first)
    alone = run(make_engine(short, slots=3, conditioner=Spoken(short)), [long])
    assert np.array_equal(codes(alone[long]), codes(outcomes[long]))
    whole = codes(outcomes[long])
    assert not np.array_equal(whole[:, 50:80], whole[:, 80:110]), "windows draw their own numbers"


def test_a_continuation_begins_with_its_prompt_and_listens_to_it(model: Any) -> None:
    generator = torch.Generator().manual_seed(2)
    prompts = {name: torch.randint(0, 64, (4, 20), generator=generator, dtype=torch.int16) for name in ("one", "two")}
    engine = make_engine(model, slots=2, conditioner=Spoken(model, prompts))
    greedy: dict[str, Any] = {"temperature": 0.0}
    outcomes = run(
        engine,
        [ask("one", 1.0, **greedy), ask("two", 1.0, **greedy), ask("one", 1.0, keep_continuation=False, **greedy)],
    )
    by_shape = {(r.prompt, codes(o).shape[1]): codes(o) for r, o in outcomes.items()}
    assert np.array_equal(by_shape["one", 50][:, :20], prompts["one"])
    assert np.array_equal(by_shape["one", 30], by_shape["one", 50][:, 20:])
    # Forcing what a clip has made so far changes nothing in what follows: prefill and steps are one computation.
    again = Spoken(model, {"one": torch.from_numpy(by_shape["one", 50][:, :35].copy())})
    longer = codes(
        next(iter(run(make_engine(model, slots=1, conditioner=again), [ask("one", 1.0, **greedy)]).values()))
    )
    assert np.array_equal(longer, by_shape["one", 50])
    full = make_engine(model, slots=1, conditioner=Spoken(model, prompts))
    (failed,) = run(full, [ask("one", 0.4)]).values()
    assert isinstance(failed, Failed)
    assert "larger duration_s" in str(failed.error)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("path", PATHS)
def test_a_row_whose_logits_are_not_finite_fails_and_leaves_nothing_behind(
    load: Any, text_checkpoint: Path, path: str, bad: float
) -> None:
    """Neither beside it nor after it in its slot: a cache that keeps a NaN would carry it on, since 0 * NaN is NaN."""
    model = replace(load(text_checkpoint, path), codec=SilentCodec())

    class Poisoned(Spoken):
        def _prepare(self, request: Request) -> Any:
            prepared = super()._prepare(request)
            if not request.prompt.startswith("poison"):
                return prepared
            states = torch.full((5, model.spec.hidden), bad)
            return SimpleNamespace(
                forced=None,
                window=lambda start, frames: Conditions((Branch(cross=states), Branch()), 3.0),
                prompt_tokens=prepared.prompt_tokens,
            )

    wanted = [
        ask(f"{'poison' if i in (1, 2, 6) else 'piano'} {i}", 0.1 + 0.06 * i, top_p=0.9 * (i % 2)) for i in range(9)
    ]
    outcomes = run(make_engine(model, slots=3, conditioner=Poisoned(model)), wanted)
    calm = make_engine(model, slots=3, conditioner=Spoken(model))
    for request, outcome in outcomes.items():
        if request.prompt.startswith("poison"):
            assert isinstance(outcome, Failed)
            assert outcome.error.error_class == "generation"
            assert "not finite 0.00 s into the clip" in str(outcome.error)
        else:
            assert np.array_equal(codes(outcome), codes(run(calm, [request])[request]))


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("tensor", ["lm_heads.2.weight", "model.decoder.layers.1.fc1.weight"])
def test_a_checkpoint_with_a_broken_weight_fails_its_rows(
    load: Any, text_checkpoint: Path, tmp_path: Path, path: str, tensor: str
) -> None:
    folder = Path(shutil.copytree(text_checkpoint, tmp_path / "broken"))
    tensors = load_file(folder / "model.safetensors")
    tensors[f"decoder.{tensor}"][3, 7] = float("nan")
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    engine = make_engine(load(folder, path), slots=2)
    for outcome in run(
        engine, [ask("a", 0.2), ask("b", 0.3, temperature=0.0), ask("c", 0.1, top_k=0, top_p=0.5)]
    ).values():
        assert isinstance(outcome, Failed)
        assert outcome.error.error_class == "generation"
        assert "weights are damaged" in str(outcome.error)


@pytest.mark.parametrize("path", ["native-float32", "eager-float32"])
def test_out_of_memory_halves_the_slots_and_loses_no_row(
    load: Any, text_checkpoint: Path, path: str, monkeypatch: Any
) -> None:
    model = replace(load(text_checkpoint, path), codec=SilentCodec())
    wanted = [ask(f"piano {i}", 0.1 + 0.04 * i) for i in range(9)]
    calm = run(make_engine(model, slots=4), wanted)
    engine = make_engine(model, slots=4)
    before = json.loads(engine.fingerprint)
    forward, calls = type(model.decoder).forward, 0

    def tight(self: Any, *arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls in (9, 20):
            raise RuntimeError(
                "[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: you tried ..."
            )
        return forward(self, *arguments)

    monkeypatch.setattr(type(model.decoder), "forward", tight)
    outcomes = run(engine, wanted)
    assert calls > 20
    assert engine.slots == 1
    after = json.loads(engine.fingerprint)
    assert after == {**before, "slots": 1, "halved_from": 4}
    assert set(outcomes) == set(wanted)
    if path == "native-float32":  # there the number of slots is no part of the arithmetic
        assert all(np.array_equal(codes(outcomes[r]), codes(calm[r])) for r in wanted)


def test_out_of_memory_with_one_slot_fails_the_row_and_goes_on(model: Any, monkeypatch: Any) -> None:
    engine = make_engine(model, slots=1)
    step = type(engine._stepper).step
    calls = 0

    def tight(self: Any, count: int = 1) -> None:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        step(self, count)

    monkeypatch.setattr(type(engine._stepper), "step", tight)
    outcomes = run(engine, [ask("a", 0.2), ask("b", 0.2)])
    assert isinstance(outcomes[ask("a", 0.2)], Failed)
    assert isinstance(outcomes[ask("b", 0.2)], Clip)


def test_other_errors_are_not_taken_for_memory(model: Any, monkeypatch: Any) -> None:
    engine = make_engine(model, slots=1)
    monkeypatch.setattr(
        type(engine._stepper), "step", lambda self, count=1: (_ for _ in ()).throw(RuntimeError("a bug"))
    )
    with pytest.raises(RuntimeError, match="a bug"):
        run(engine, [ask("a", 0.2)])


def test_a_longer_prompt_or_clip_than_any_before_makes_room(model: Any) -> None:
    """The hint `max_frames` saves memory; it is no limit, and growing in the middle changes nothing."""
    small, ample = make_engine(model, slots=2, max_frames=10), make_engine(model, slots=2)
    wanted = [ask("piano " * n, seconds) for n, seconds in ((1, 0.2), (3, 0.4), (90, 0.3), (2, 4.0), (4, 0.2))]
    grown, calm = run(small, wanted), run(ample, wanted)
    assert all(np.array_equal(codes(grown[r]), codes(calm[r])) for r in wanted)


def test_the_fingerprint_names_what_bits_may_depend_on(model: Any) -> None:
    found = json.loads(make_engine(model, slots=2, threads=1).fingerprint)
    assert found["torch"] == torch.__version__
    assert (found["device"], found["dtype"], found["slots"], found["threads"]) == ("cpu", "float32", 2, 1)
    assert re.fullmatch(rf"native-\w+-r{cpu_ops.KERNEL_REVISION}", found["path"])
    assert cpu_ops.KERNEL_REVISION >= 2, (
        "1, which had no name, is that of the kernels that lost values (docs/changelog.md)"
    )
    assert found["vectors"] == torch.backends.cpu.get_cpu_capability()
    assert found["transformers"] == transformers.__version__
