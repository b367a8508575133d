"""Signals that come while a run is being ended."""

import subprocess
import sys
import time
from uuid import uuid4

import pytest
from prefect.concurrency._leases import maintain_concurrency_lease
from prefect.settings import PREFECT_API_URL, temporary_settings

from flows.signals import run_interruptibly

IMPATIENT = """
import os, signal, threading, time
from flows.signals import run_interruptibly

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


def test_a_lost_lease_of_a_concurrency_limit_does_not_end_the_work(caplog: pytest.LogCaptureFixture) -> None:
    """Prefect cancels the thread of a flow whose lease cannot be renewed, as while its server is away."""

    def work() -> str:
        deadline = time.monotonic() + 60
        while "slots are no longer reserved" not in caplog.text and time.monotonic() < deadline:
            time.sleep(0.1)
        time.sleep(0.5)  # the cancellation follows what is logged
        return "made"

    def stop() -> None:
        pytest.fail("the work was to go on")

    with (
        temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"}),
        maintain_concurrency_lease(uuid4(), 60, raise_on_lease_renewal_failure=True),
    ):
        assert run_interruptibly(work, stop) == "made"
    assert "slots are no longer reserved" in caplog.text
