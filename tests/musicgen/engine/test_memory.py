"""The memory formula against what is really allocated, and the plan against the formula."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from musicgen.conditioning.conditions import Branch, Conditions
from musicgen.engine import memory
from musicgen.engine.sequence import GENERATE, Window
from musicgen.engine.stepper import Stepper
from musicgen.model.decoder.cpu_ops import load_library
from musicgen.model.memory_errors import is_out_of_memory
from musicgen.request import Request
from tests.fixtures.checkpoints import write_checkpoint
from tests.fixtures.random_checkpoint import Sizes
from tests.musicgen.engine.conftest import PATHS

WIDE = {
    "text": Sizes(hidden=128, layers=1, heads=2, ffn=512, codebook_size=1024),
    "melody": Sizes(kind="melody", hidden=128, layers=1, heads=2, ffn=512),
}


def held(value: Any, seen: set[int]) -> int:
    """Bytes of all tensor storages that a value reaches (not the decoder's)."""
    if isinstance(value, torch.Tensor):
        storage = value.untyped_storage()
        if storage.data_ptr() in seen:
            return 0
        seen.add(storage.data_ptr())
        return storage.nbytes()
    if isinstance(value, (list, tuple)):
        return sum(held(v, seen) for v in value)
    if type(value).__name__ == "KVCache":
        return sum(held(getattr(value, name), seen) for name in type(value).__slots__)
    return 0


@pytest.fixture(scope="module", params=WIDE)
def wide(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Wide enough for the formula's terms to stand out from what is of any size."""
    return write_checkpoint(tmp_path_factory.mktemp("wide"), WIDE[request.param], seed=6)


def peak(work: Callable[[], None]) -> int:
    """The most bytes that torch's allocator holds during `work`, beyond what it held before."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        work()
    assert recorded.profiler is not None
    events = [event for event in recorded.profiler.kineto_results.events() if event.name() == "[memory]"]
    return int(np.cumsum([event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())]).max())


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(("slots", "width"), [(2, 2), (48, 3)])
def test_a_step_takes_what_the_formula_says(load: Any, wide: Path, path: str, slots: int, width: int) -> None:
    """Placing a context as long as the cache, behind a prefix and a prompt; then a step of every slot."""
    decoder, capacity, text, before = load(wide, path).decoder, 400, 20, 250
    stepper = Stepper(decoder, slots, width, capacity)
    states, prefix = torch.randn(text, 128), None
    if decoder.spec.kind == "melody":
        states, prefix = None, torch.randn(before, 128)

    def place(slot: int, known: int, branches: list[Branch]) -> None:
        sequence = np.full((4, known + 10), GENERATE, np.int32)
        sequence[:, :known] = 0
        request = Request(prompt="", seed=slot, top_p=0.9 * (slot % 2))
        stepper.place(slot, Window(0, 0, known + 6, sequence, known), Conditions(tuple(branches), 3.0), request)

    known = capacity - 10 - (0 if prefix is None else before)
    allocated = peak(lambda: place(0, known, [Branch(states, prefix), *[Branch(None, prefix)] * (width - 1)]))
    for slot in range(1, slots):
        place(slot, 1, [Branch(None if states is None else states[:3]), *[Branch()] * (width - 1)])
    stepper.step()
    allocated = max(allocated, peak(stepper.step))
    assert 0.7 < allocated / memory.step_bytes(decoder, slots, width, capacity) < 1.05


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="peaks of resident memory can be reset on Linux alone")
def test_an_engine_takes_what_was_planned(tmp_path: Path) -> None:
    """Whole engines in a process of their own: peak resident memory beyond what it had with the model loaded."""
    command = [sys.executable, "-m", "tests.musicgen.engine.measure_resident_memory", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 0, done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert len({(case["kind"], case["path"]) for case in found}) == 6
    for case in found:
        assert case["planned"] > 5e7
        assert 0.75 < case["taken"] / case["planned"] < 1.15, case


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the size of a process is bounded in the Linux way")
def test_memory_that_really_runs_out_halves_the_slots(tmp_path: Path) -> None:
    """A long clip comes when the slots' caches are short, and there is room for half of the longer ones alone."""
    if isinstance(load_library(), str):
        pytest.skip(f"no compiled kernels: {load_library()}; it would take a minute")
    command = [sys.executable, "-m", "tests.musicgen.engine.run_out_of_memory", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 0, done.stderr
    assert "out of memory with 8 slots: going on with 4" in done.stderr
    found = json.loads(done.stdout)
    assert len(found["frames"]) == found["asked"] == 12
    assert max(found["frames"]) == 1500
    assert found["slots"] == 4
    made_with = {frames: (engine["slots"], engine.get("halved_from")) for frames, engine in found["engines"].items()}
    some_before = (8, None) in made_with.values()  # some clips may be finished before the long one comes
    after = made_with["1500"]
    # Codes that were made with eight slots before it leave their mark too, though no whole clip came of them.
    assert after == (4, 8) or (after == (4, None) and not some_before)
    assert set(made_with.values()) <= {after, (8, None)}


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(("slots", "width", "capacity"), [(1, 2, 40), (3, 2, 333), (5, 3, 1504)])
def test_slots_take_what_the_formula_says(
    load: Any, deeper_checkpoint: Path, path: str, slots: int, width: int, capacity: int
) -> None:
    decoder = load(deeper_checkpoint, path).decoder
    stepper = Stepper(decoder, slots, width, capacity)
    allocated = held([stepper.cache, stepper.sequence, stepper.at], set())
    assert allocated == memory.slot_bytes(decoder, slots, width, capacity)
    assert allocated > slots * width * capacity * decoder.spec.hidden * 2 * decoder.spec.layers * decoder.dtype.itemsize


def test_the_plan_takes_what_fits_and_no_more(load: Any, deeper_checkpoint: Path) -> None:
    decoder = load(deeper_checkpoint).decoder
    sizes = [memory.plan_slots(decoder, 2, 1504, free) for free in (1, 10**7, 10**8, 10**9, 10**12)]
    assert [s.slots for s in sizes] == sorted(s.slots for s in sizes)
    assert sizes[0].slots == 1
    assert 1 < sizes[2].slots < sizes[4].slots == 32
    for plan in sizes[2:]:
        assert plan.nbytes <= plan.free / 2
    assert memory.engine_bytes(decoder, sizes[2].slots + 1, 2, 1504) > 10**8 / 2


def test_bfloat16_and_shorter_clips_give_more_slots(load: Any, deeper_checkpoint: Path) -> None:
    full, half = load(deeper_checkpoint).decoder, load(deeper_checkpoint, "native-bfloat16").decoder
    assert memory.plan_slots(half, 2, 1504, 10**8).slots >= 1.6 * memory.plan_slots(full, 2, 1504, 10**8).slots
    assert memory.plan_slots(full, 2, 300, 10**8).slots >= 2 * memory.plan_slots(full, 2, 1504, 10**8).slots


def test_free_memory_is_bounded_by_the_machine() -> None:
    import psutil

    assert 0 < memory.free_bytes(torch.device("cpu")) <= psutil.virtual_memory().total


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError("CUDA out of memory"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"), False),
        (ValueError("not enough memory"), False),
    ],
)
def test_lack_of_memory_is_told_from_other_errors(error: Exception, expected: bool) -> None:
    assert is_out_of_memory(error) is expected


@pytest.mark.parametrize(("fraction", "reserved", "free"), [(1.0, 10, 70), (0.5, 10, 30), (0.5, 45, 0), (0.9, 0, 70)])
def test_a_fraction_of_a_gpu_plans_its_fraction(
    monkeypatch: pytest.MonkeyPatch, fraction: float, reserved: int, free: int
) -> None:
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (70, 80))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: reserved)
    monkeypatch.setattr(torch.cuda, "get_per_process_memory_fraction", lambda device: fraction)
    assert memory.free_bytes(torch.device("cuda")) == free
