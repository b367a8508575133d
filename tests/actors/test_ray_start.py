"""What starting Ray leaves behind in the process of a driver."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from actors.cluster import _PROXY_ENV, FORWARDED_ENV, Cluster
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


@pytest.mark.slow
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


def test_a_joined_cluster_says_which_variables_it_does_not_get(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RAY_JOB_CONFIG_JSON_ENV_VAR", *_PROXY_ENV, *FORWARDED_ENV):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HTTP_PROXY", "http://proxy:3128")
    joined = Cluster("10.0.0.1:6379", False, nodes=1, cpus=4, gpus=0, cpus_per_actor=4, gpus_per_actor=0)
    assert joined.environment_note is None
    monkeypatch.setenv("https_proxy", "http://user:secret@proxy:3128")
    note = joined.environment_note or ""
    assert note.startswith("not sent to the workers, because Ray would show the password: https_proxy; if they need it")
    assert "secret" not in note
    assert replace(joined, started_here=True).environment_note is None  # workers of a local Ray have what we have
    submitted = json.dumps({"runtime_env": {"env_vars": {"https_proxy": "http://user:secret@proxy:3128"}}})
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", submitted)
    assert joined.environment_note is None
