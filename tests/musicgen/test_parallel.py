"""The ordered map over threads: order, bound, errors, and what becomes of calls that nobody waits for."""

import threading
import time
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from musicgen.parallel import map_ordered


@given(st.lists(st.integers()), st.integers(1, 5), st.integers(1, 9))
@settings(max_examples=30)
def test_results_come_in_the_order_of_the_items(items: list[int], threads: int, ahead: int) -> None:
    def delayed_square(item: int) -> int:
        time.sleep(item % 3 / 10_000)
        return item * item

    results = map_ordered(delayed_square, items, threads=threads, ahead=ahead)
    assert list(results) == [item * item for item in items]


def test_calls_run_at_the_same_time() -> None:
    barrier = threading.Barrier(3, timeout=10)
    assert len(list(map_ordered(lambda _: barrier.wait(), range(6), threads=3))) == 6


def test_only_a_bounded_number_of_items_is_taken_ahead_of_the_reader() -> None:
    taken: list[int] = []

    def items() -> Iterator[int]:
        for item in range(100):
            taken.append(item)
            yield item

    results = map_ordered(lambda item: item, items(), threads=2, ahead=5)
    for yielded in range(10):
        assert next(results) == yielded
        assert len(taken) - yielded == 5
    assert list(results) == list(range(10, 100))


def test_an_error_is_raised_in_its_place() -> None:
    results = map_ordered(lambda item: 1 // item, [1, -1, 0, 1], threads=2)
    assert [next(results), next(results)] == [1, -1]
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_closed_early_it_cancels_what_has_not_begun_and_awaits_the_rest() -> None:
    begun: list[int] = []
    ended: list[int] = []
    release = threading.Event()

    def wait_for_release(item: int) -> int:
        begun.append(item)
        if item:
            release.wait(10)
        ended.append(item)
        return item

    results = map_ordered(wait_for_release, range(100), threads=2, ahead=50)
    assert next(results) == 0
    timer = threading.Timer(0.05, release.set)
    timer.start()
    results.close()  # type: ignore[attr-defined]  # it is a generator
    timer.join()
    assert sorted(ended) == sorted(begun)  # nothing runs on
    assert len(begun) < 10


def test_an_error_of_the_items_cancels_too() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise OSError("cut off")

    with pytest.raises(OSError, match="cut off"):
        list(map_ordered(lambda item: item, items(), threads=1))


def test_without_threads_or_items_it_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one thread"):
        next(map_ordered(str, [1], threads=0))
