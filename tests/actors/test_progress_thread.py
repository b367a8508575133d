"""Observers that are slow, broken or stuck."""

import threading
import time

from actors.messages import Progress
from actors.progress_thread import ProgressThread


def test_a_slow_observer_gets_the_latest_progress_and_holds_up_nobody():
    seen: list[int] = []
    may_return = threading.Event()

    def observe(progress: Progress) -> None:
        seen.append(progress.shards_done)
        may_return.wait()

    with ProgressThread(observe) as progress_thread:
        progress_thread.put(Progress(10, 10, 1))
        while not seen:
            time.sleep(0.01)
        for done in range(2, 11):
            progress_thread.put(Progress(10, 10, done))
        may_return.set()
    assert seen == [1, 10]


def test_an_observer_that_raises_is_called_again():
    seen: list[int] = []

    def observe(progress: Progress) -> None:
        seen.append(progress.shards_done)
        raise ConnectionError("the server is gone")

    with ProgressThread(observe) as progress_thread:
        for done in range(3):
            progress_thread.put(Progress(3, 3, done))
            while done not in seen:
                time.sleep(0.01)
    assert seen == [0, 1, 2]


def test_an_observer_that_does_not_return_is_left_behind():
    with ProgressThread(lambda progress: threading.Event().wait()) as progress_thread:
        progress_thread.put(Progress(1, 1))
    assert progress_thread._thread.is_alive()
