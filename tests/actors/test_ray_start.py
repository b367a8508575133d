"""What starting Ray leaves behind in the process of a driver."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from actors.ray_start import _select_variables

DRIVER = """
import signal, sys, time

from actors.ray_start import start_local_ray


def end(number, frame):
    raise SystemExit(42)


signal.signal(signal.SIGTERM, end)
start_local_ray(1, verbose=False)
print("started", flush=True)
time.sleep(60)
"""


def test_ray_starts_where_tmpdir_is_long_and_leaves_home_and_sigterm_alone(tmp_path: Path) -> None:
    folder = tmp_path / ("job-" + "x" * 80)  # as a batch scheduler names it
    folder.mkdir()
    home = tmp_path / "home"
    home.mkdir()
    environment = {**os.environ, "HOME": str(home), "TMPDIR": str(folder), "PYTHONPATH": str(Path(__file__).parents[2])}
    driver = subprocess.Popen(
        [sys.executable, "-c", DRIVER], stdout=subprocess.PIPE, text=True, env=environment, cwd=tmp_path
    )
    assert driver.stdout is not None
    try:
        assert driver.stdout.readline() == "started\n"
        driver.send_signal(signal.SIGTERM)
        assert driver.wait(60) == 42
        assert not list(home.iterdir())  # Ray's token is the driver's own
    finally:
        driver.kill()
        driver.wait()


def test_no_variable_with_a_password_goes_to_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://user:secret@store:9000")
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://store:9000")
    monkeypatch.delenv("AWS_REGION", raising=False)
    sent = _select_variables(["AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_REGION"])
    assert sent == {"AWS_ENDPOINT_URL_S3": "http://store:9000"}
