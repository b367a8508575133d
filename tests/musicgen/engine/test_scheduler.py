"""The scheduler's laws, against random histories."""

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from musicgen.engine.scheduler import Scheduler

lengths = st.lists(st.integers(1, 30), max_size=40)


def simulate(slots: int, items: list[int], chunk: int = 10**9, shrink_at: int | None = None) -> tuple[list[int], int]:
    """Run items (their index names them, their value is their length); returns the order they finished in, and the
    steps.
    """
    scheduler: Scheduler[int] = Scheduler(slots)
    for item in range(len(items)):
        scheduler.add(item)
    finished, steps, rounds = [], 0, 0
    while not scheduler.idle:
        while (admitted := scheduler.admit()) is not None:
            slot, item = admitted
            scheduler.start(slot, items[item])
        assert len(scheduler.running) == scheduler.slots or not scheduler.waiting, "a slot idles while work waits"
        assert len(set(scheduler.running.values())) == len(scheduler.running) <= scheduler.slots
        if rounds == shrink_at and scheduler.slots > 1:
            scheduler.shrink(scheduler.slots // 2)
            rounds += 1
            continue
        rounds += 1
        count = min(scheduler.horizon, chunk)
        done = scheduler.advance(count)
        steps += count
        finished += [scheduler.release(slot) for slot in done]
    return finished, steps


@given(st.integers(1, 8), lengths, st.integers(1, 12))
def test_every_item_finishes_once_and_no_slot_idles_while_work_waits(slots: int, items: list[int], chunk: int) -> None:
    finished, steps = simulate(slots, items, chunk)
    assert sorted(finished) == list(range(len(items)))
    assert steps <= sum(items)  # never worse than one after the other,
    assert steps * slots >= sum(items)  # never better than perfect packing,
    assert steps == simulate(slots, items)[1]  # and looking more often changes nothing


@given(st.integers(2, 8), lengths, st.integers(0, 20))
def test_shrinking_loses_nothing(slots: int, items: list[int], when: int) -> None:
    finished, _ = simulate(slots, items, shrink_at=when)
    assert sorted(finished) == list(range(len(items)))


@given(st.integers(1, 6), st.lists(st.integers(1, 9), min_size=1, max_size=20))
def test_admission_is_first_come_first_served(slots: int, items: list[int]) -> None:
    scheduler: Scheduler[int] = Scheduler(slots)
    for item in range(len(items)):
        scheduler.add(item)
    order = []
    while not scheduler.idle:
        while (admitted := scheduler.admit()) is not None:
            order.append(admitted[1])
            scheduler.start(admitted[0], items[admitted[1]])
        for slot in scheduler.advance(scheduler.horizon):
            scheduler.release(slot)
    assert order == list(range(len(items)))


@given(
    st.integers(1, 6),
    st.lists(st.integers(1, 9), min_size=1, max_size=20),
    st.integers(1, 5),
    st.randoms(use_true_random=False),
)
def test_the_order_of_admission_changes_nothing_for_an_item(
    slots: int, items: list[int], chunk: int, dice: Random
) -> None:
    """In any order, and while others arrive, an item gets one slot and there its own steps without a gap."""
    arriving = list(range(len(items)))
    dice.shuffle(arriving)
    scheduler: Scheduler[int] = Scheduler(slots)
    begun: dict[int, tuple[int, int]] = {}
    ended: dict[int, tuple[int, int]] = {}
    clock = 0
    while arriving or not scheduler.idle:
        for _ in range(min(len(arriving), dice.randint(0 if scheduler.running else 1, 3))):
            scheduler.add(arriving.pop())
        while (admitted := scheduler.admit()) is not None:
            slot, item = admitted
            assert item not in begun
            begun[item] = (slot, clock)
            scheduler.start(slot, items[item])
        count = min(scheduler.horizon, chunk)
        clock += count
        for slot in scheduler.advance(count):
            ended[scheduler.release(slot)] = (slot, clock)
    assert ended == {item: (slot, start + items[item]) for item, (slot, start) in begun.items()}
    assert len(ended) == len(items)


def test_what_runs_goes_back_to_the_front_in_its_order() -> None:
    scheduler: Scheduler[str] = Scheduler(2)
    for item in "abcd":
        scheduler.add(item)
    for _ in range(2):
        scheduler.start(scheduler.admit()[0], 5)  # type: ignore[index]
    scheduler.shrink(1)
    assert list(scheduler.waiting) == ["a", "b", "c", "d"]
    assert scheduler.admit() == (0, "a")
    assert scheduler.admit() is None


def test_misuse_is_refused() -> None:
    with pytest.raises(ValueError, match="slot"):
        Scheduler(0)
    scheduler: Scheduler[str] = Scheduler(1)
    with pytest.raises(ValueError, match="empty"):
        scheduler.start(0, 3)
    scheduler.add("a")
    scheduler.admit()
    with pytest.raises(ValueError, match="step"):
        scheduler.start(0, 0)
    scheduler.start(0, 3)
    with pytest.raises(ValueError, match="beyond"):
        scheduler.advance(4)
    with pytest.raises(ValueError, match="slots"):
        scheduler.shrink(2)
