"""Background workers: one thread each, whatever the caller's threads, which do not change."""

import os
import sys
import threading
import time

import pytest
import torch

from musicgen.conditioning.workers import BackgroundWorkers


def test_workers_compute_with_one_thread_and_leave_the_caller_alone() -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        workers = BackgroundWorkers(torch.device("cpu"), workers=2)
        assert [workers.submit(torch.get_num_threads).result() for _ in range(4)] == [1] * 4
        assert torch.get_num_threads() == 3
        later: list[int] = []
        thread = threading.Thread(target=lambda: later.append(torch.get_num_threads()))
        thread.start()
        thread.join()
        assert later == [3]
        workers.close()
    finally:
        torch.set_num_threads(before)


def test_a_worker_that_starts_late_computes_with_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    configure = BackgroundWorkers._configure_thread
    first = threading.Lock()

    def configure_late(self: BackgroundWorkers) -> None:
        if first.acquire(blocking=False):
            time.sleep(0.05)  # long enough for the other one to be started
            configure(self)
        else:
            configure(self)
            time.sleep(0.3)  # the first one has taken all there was to do, and the caller has gone on

    monkeypatch.setattr(BackgroundWorkers, "_configure_thread", configure_late)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        workers = BackgroundWorkers(torch.device("cpu"), workers=2)
        both = threading.Barrier(2)
        counts = [workers.submit(lambda: (both.wait(10), torch.get_num_threads())[1]) for _ in range(2)]
        assert [count.result() for count in counts] == [1, 1]
        assert torch.get_num_threads() == 3
        workers.close()
    finally:
        torch.set_num_threads(before)


def test_what_work_raises_is_in_its_future() -> None:
    workers = BackgroundWorkers(torch.device("cpu"), workers=1)
    with pytest.raises(ZeroDivisionError):
        workers.submit(lambda: 1 / 0).result()
    assert workers.submit(lambda a, b: a + b, 1, 2).result() == 3
    workers.close()


@pytest.mark.skipif(sys.platform != "linux", reason="threads have a niceness of their own on Linux alone")
def test_the_step_goes_first() -> None:
    workers = BackgroundWorkers(torch.device("cpu"), workers=1)
    mine = os.getpriority(os.PRIO_PROCESS, 0)
    theirs = workers.submit(lambda: os.getpriority(os.PRIO_PROCESS, threading.get_native_id())).result()
    assert theirs > mine
    assert os.getpriority(os.PRIO_PROCESS, 0) == mine
    workers.close()
