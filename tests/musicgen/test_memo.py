"""A thing that many ask for is computed once."""

import threading
import time

import pytest

from musicgen.memo import Memo


def test_threads_wait_for_the_one_who_computes() -> None:
    once: Memo[str, int] = Memo(4)
    results: list[int] = []

    def slow() -> int:
        time.sleep(0.1)
        return 7

    threads = [threading.Thread(target=lambda: results.append(once.get("a", slow))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [7] * 8
    assert once.computed == 1


def test_the_least_recently_used_is_forgotten() -> None:
    once: Memo[str, str] = Memo(2)
    for key in ("a", "b", "a", "c", "a", "b"):  # c throws b out, the second b throws c out
        once.get(key, lambda key=key: key * 2)
    assert once.computed == 4


def test_a_failure_is_not_remembered_and_wakes_those_who_wait() -> None:
    once: Memo[str, int] = Memo(2)
    started = threading.Event()
    caught: list[BaseException] = []

    def fail() -> int:
        started.set()
        time.sleep(0.05)
        raise ValueError("no")

    def first() -> None:
        try:
            once.get("a", fail)
        except ValueError as error:
            caught.append(error)

    thread = threading.Thread(target=first)
    thread.start()
    started.wait()
    assert once.get("a", lambda: 3) == 3
    thread.join()
    assert len(caught) == 1
    with pytest.raises(ValueError, match="no"):
        once.get("b", fail)
