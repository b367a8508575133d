"""Signals that come while a run is being ended."""

import signal
import subprocess
import sys
import time

import pytest
from prefect._internal.concurrency.cancellation import WatcherThreadCancelScope
from prefect.utilities.engine import capture_sigterm

from flows.signals import raise_on_sigterm, run_interruptibly

IMPATIENT = """
import os, signal, threading, time
from flows.signals import raise_on_sigterm, run_interruptibly

started, stop, all_sent = (threading.Event() for _ in range(3))

def work():
    started.set()
    stop.wait()
    all_sent.wait()
    print("actors have ended")

def interrupt():
    started.wait()
    time.sleep(1)
    for _ in range(50):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.0005)
    time.sleep(0.1)
    all_sent.set()

threading.Thread(target=interrupt, daemon=True).start()
try:
    run_interruptibly(work, stop.set)
except KeyboardInterrupt:
    print("interrupted")
    os._exit(0)
"""


def test_repeated_interruptions_do_not_keep_a_run_from_ending_its_actors() -> None:
    """Some programs send a signal twice, and people do: without the end a run seems to go on for a while."""
    command = [sys.executable, "-u", "-c", IMPATIENT]
    printed = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=60, check=True).stdout
    assert printed.splitlines() == ["actors have ended", "interrupted"]


def test_a_lost_lease_of_a_concurrency_limit_does_not_end_the_work() -> None:
    """Prefect cancels a flow's thread, in such a scope, when it cannot renew the lease: while its server is away."""

    def work() -> str:
        time.sleep(0.5)  # the flow's thread waits by now
        lease.cancel()
        time.sleep(0.5)
        return "made"

    def stop() -> None:
        pytest.fail("the work was to go on")

    with WatcherThreadCancelScope() as lease:
        assert run_interruptibly(work, stop) == "made"
        assert lease.cancelled()


def test_prefects_handler_of_sigterm_stays_in_place() -> None:
    """Without it Prefect takes a cancellation in its UI for a crash, and `deploy`'s failure hook is called."""

    def read_handler() -> object:
        time.sleep(0.3)  # the waiting thread has done what it does by now
        return signal.getsignal(signal.SIGTERM)

    with capture_sigterm():
        handler = signal.getsignal(signal.SIGTERM)
        assert run_interruptibly(read_handler, lambda: None) is handler
    with raise_on_sigterm():
        handler = signal.getsignal(signal.SIGTERM)
        assert run_interruptibly(read_handler, lambda: None) is not handler
