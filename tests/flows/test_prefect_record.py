"""What Prefect shows of a run, and what a run says of Prefect, with a driver that makes nothing."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.flows.conftest import serve_prefect
from tests.flows.test_run import ask

pytestmark = [pytest.mark.slow, pytest.mark.timeout(590, func_only=True)]

DRIVER = """
import time
from flows.cli.quiet import quiet_libraries
quiet_libraries()
from flows.prefect_record import PrefectRecord
from musicgen.job import Job
job = Job.model_validate({"manifest": {"uri": "rows.csv"}, "output": {"uri": "set"}})
with PrefectRecord(job, "r0-1", lambda text: print(text, flush=True)):
    time.sleep(600)
"""


class Driver:
    """A process that records a run, and the lines that it says."""

    def __init__(self, env: dict[str, str]):
        self.process = subprocess.Popen(
            [sys.executable, "-c", DRIVER], env={**os.environ, **env}, stdout=subprocess.PIPE, text=True
        )
        self.lines: list[str] = []
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        self.lines.extend(iter(self.process.stdout.readline, ""))

    def says(self, text: str) -> bool:
        return any(text in line for line in list(self.lines))


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Driver]]:
    """Starts drivers that end with the test."""
    with ExitStack() as stack:

        def start_driver(**env: str) -> Driver:
            driver = Driver({"PREFECT_HOME": str(tmp_path / "client"), **env})
            stack.callback(driver.process.wait)
            stack.callback(driver.process.kill)
            return driver

        yield start_driver


def wait_until(condition: Callable[[], object], seconds: float = 120) -> bool:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.2)
    return bool(condition())


def states(url: str) -> list[str]:
    return [run["state_type"] for run in ask(url, "flow_runs", {})]


def test_a_server_that_was_away_is_said_to_answer_again_and_a_killed_driver_is_a_failed_run(
    tmp_path: Path, start: Callable[..., Driver]
) -> None:
    with serve_prefect(tmp_path / "own-prefect") as (server, url):
        driver = start(PREFECT_API_URL=url)
        assert wait_until(lambda: states(url) == ["RUNNING"]), driver.lines
        server.send_signal(signal.SIGSTOP)
        assert wait_until(lambda: driver.says("does not answer since")), driver.lines
        server.send_signal(signal.SIGCONT)
        assert wait_until(lambda: driver.says(f"Prefect at {url} answers again")), driver.lines
        assert len(driver.lines) == 2
        driver.process.kill()
        assert wait_until(lambda: states(url) == ["FAILED"]), states(url)


def test_a_server_that_refuses_access_is_named_once(
    tmp_path: Path, start: Callable[..., Driver], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFECT_SERVER_API_AUTH_STRING", "user:password")
    with serve_prefect(tmp_path / "own-prefect") as (_, url):
        driver = start(PREFECT_API_URL=url, PREFECT_API_AUTH_STRING="user:wrong")
        refusal = "access is refused; set PREFECT_API_AUTH_STRING=user:password; the run goes on without it"
        assert wait_until(lambda: driver.says(f"Prefect at {url}: {refusal}")), driver.lines
        assert driver.process.poll() is None
        assert len(driver.lines) == 1
