"""A memo computes the result for a key once, whatever the number of threads, and keeps the last few."""

import threading
import time

import pytest

from musicgen.memo import Memo


def test_threads_wait_for_the_thread_that_computes() -> None:
    memo: Memo[str, int] = Memo(4)
    results: list[int] = []
    computed: list[str] = []

    def slow() -> int:
        computed.append("a")
        time.sleep(0.1)
        return 7

    threads = [threading.Thread(target=lambda: results.append(memo.get("a", slow))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [7] * 8
    assert computed == ["a"]


def test_the_least_recently_used_result_is_dropped() -> None:
    memo: Memo[str, str] = Memo(2)
    computed: list[str] = []
    for key in ("a", "b", "a", "c", "a", "b"):  # c throws b out, the second b throws c out
        memo.get(key, lambda key=key: computed.append(key) or key * 2)
    assert computed == ["a", "b", "c", "b"]


def test_a_failure_is_not_remembered_and_wakes_those_who_wait() -> None:
    memo: Memo[str, int] = Memo(2)
    started = threading.Event()
    caught: list[BaseException] = []

    def fail() -> int:
        started.set()
        time.sleep(0.05)
        raise ValueError("no")

    def first() -> None:
        try:
            memo.get("a", fail)
        except ValueError as error:
            caught.append(error)

    thread = threading.Thread(target=first)
    thread.start()
    started.wait()
    assert memo.get("a", lambda: 3) == 3
    thread.join()
    assert len(caught) == 1
    with pytest.raises(ValueError, match="no"):
        memo.get("b", fail)
