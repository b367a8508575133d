"""The memory formula against what is really allocated, and the plan against the formula."""

from pathlib import Path
from typing import Any

import pytest
import torch

from musicgen.engine import memory
from musicgen.engine.stepper import Stepper
from tests.musicgen.engine.conftest import PATHS


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
    if type(value).__name__ == "Cache":
        return sum(held(getattr(value, name), seen) for name in type(value).__slots__)
    return 0


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(("slots", "width", "capacity"), [(1, 2, 40), (3, 2, 333), (5, 3, 1504)])
def test_slots_take_what_the_formula_says(load: Any, deeper_checkpoint: Path, path: str, slots: int, width: int, capacity: int) -> None:
    decoder = load(deeper_checkpoint, path).decoder
    stepper = Stepper(decoder, slots, width, capacity)
    allocated = held([stepper.cache, stepper.sequence, stepper.at], set())
    assert allocated == memory.slot_bytes(decoder, slots, width, capacity)
    assert allocated > slots * width * capacity * decoder.spec.hidden * 2 * decoder.spec.layers * decoder.dtype.itemsize


def test_the_plan_takes_what_fits_and_no_more(load: Any, deeper_checkpoint: Path) -> None:
    decoder = load(deeper_checkpoint).decoder
    sizes = [memory.plan(decoder, 2, 1504, free) for free in (1, 10**7, 10**8, 10**9, 10**12)]
    assert [s.slots for s in sizes] == sorted(s.slots for s in sizes)
    assert sizes[0].slots == 1
    assert 1 < sizes[2].slots < sizes[4].slots == 32
    for plan in sizes[2:]:
        assert plan.nbytes <= plan.free / 2
    one_more = memory.slot_bytes(decoder, sizes[2].slots + 1, 2, 1504) + memory.step_bytes(decoder, sizes[2].slots + 1, 2)
    assert one_more * 1.05 > 10**8 / 2


def test_bfloat16_and_shorter_clips_give_more_slots(load: Any, deeper_checkpoint: Path) -> None:
    full, half = load(deeper_checkpoint).decoder, load(deeper_checkpoint, "native-bfloat16").decoder
    assert memory.plan(half, 2, 1504, 10**8).slots >= 1.6 * memory.plan(full, 2, 1504, 10**8).slots
    assert memory.plan(full, 2, 300, 10**8).slots >= 2 * memory.plan(full, 2, 1504, 10**8).slots


def test_free_memory_is_bounded_by_the_machine() -> None:
    import psutil

    assert 0 < memory.free_bytes(torch.device("cpu")) <= psutil.virtual_memory().total
