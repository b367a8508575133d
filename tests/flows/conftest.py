"""A Prefect server and a Ray cluster that the whole session shares, and the command line as a process."""

import csv
import json
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from flows.prefect_server import ask_health
from tests.conftest import S3, free_port
from tests.fixtures.checkpoints import *  # noqa: F403

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
TOKEN = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}


@dataclass(frozen=True)
class Cli:
    """Runs `musicgen` in a folder of its own, with the environment that its tests need."""

    folder: Path
    env: dict[str, str]
    started: list[subprocess.Popen[str]] = field(default_factory=list)

    def start(self, *args: str, **env: str | None) -> subprocess.Popen[str]:
        """The command as a process; a variable that is None is taken out of its environment."""
        full = {**os.environ, **self.env, **{name: value for name, value in env.items() if value is not None}}
        for name in (name for name, value in env.items() if value is None):
            full.pop(name, None)
        process = subprocess.Popen(
            [sys.executable, "-m", "musicgen", *args],
            cwd=self.folder,
            env=full,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.started.append(process)
        return process

    def __call__(
        self, *args: str, expect: int = 0, timeout: float = 200, **env: str | None
    ) -> subprocess.CompletedProcess[str]:
        """The finished command; fails the test unless it exits with `expect`."""
        process = self.start(*args, **env)
        out, err = process.communicate(timeout=timeout)
        assert process.returncode == expect, f"musicgen {' '.join(args)} exited {process.returncode}\n{out}\n{err}"
        return subprocess.CompletedProcess(args, process.returncode, out, err)


@contextmanager
def serve_prefect(home: Path) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """A real Prefect server on loopback with a database of its own, and its address."""
    log = home.with_suffix(".log")
    deadline = time.monotonic() + 180
    server, url = _start_prefect(home, log)
    try:
        while ask_health(url, 2) is not None or server.poll() is not None:
            assert time.monotonic() < deadline, log.read_text()
            if server.poll() is not None:
                assert "address already in use" in log.read_text(), log.read_text()  # another test was faster
                server, url = _start_prefect(home, log)
            time.sleep(0.2)
        yield server, url
    finally:
        server.kill()  # also one that is stopped
        server.wait()


def _start_prefect(home: Path, log: Path) -> tuple[subprocess.Popen[bytes], str]:
    port = free_port()
    server = subprocess.Popen(
        [
            *(sys.executable, "-m", "tests.fixtures.prefect_api", str(port)),
        ],
        cwd=ROOT,
        env={**os.environ, "PREFECT_HOME": str(home), "PREFECT_UI_ENABLED": "0"},
        stdout=log.open("wb"),
        stderr=subprocess.STDOUT,
    )
    return server, f"http://127.0.0.1:{port}/api"


@pytest.fixture(scope="package")
def prefect_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real Prefect server that the whole session shares."""
    with serve_prefect(tmp_path_factory.mktemp("prefect")) as (_, url):
        yield url


@pytest.fixture(scope="package")
def ray_address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Ray cluster that was started elsewhere: other folder, none of our packages on its path, two CPUs."""
    keys = {"AWS_ACCESS_KEY_ID": "testkey", "AWS_SECRET_ACCESS_KEY": "testsecret", "AWS_EC2_METADATA_DISABLED": "true"}
    options = ("--num-cpus=2", "--include-dashboard=false")
    with start_ray_head(tmp_path_factory.mktemp("ray"), *options, **keys) as (address, _):
        yield address


@contextmanager
def start_ray_head(folder: Path, *options: str, **variables: str) -> Iterator[tuple[str, dict[str, str]]]:
    """The head of a cluster in a folder of its own: its address, and the environment to join it.

    On a busy machine it may give up after Ray's half a minute; then it is started again.
    """
    env = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "RAY_ADDRESS")}
    env |= {**TOKEN, "RAY_USAGE_STATS_ENABLED": "0", **variables}
    temporary, log = shorten_folder(folder), folder / "ray.log"
    command = ["timeout", "-k", "5", "3600", str(BIN / "ray"), "start", "--head", "--block", f"--temp-dir={temporary}"]
    command += ["--object-store-memory=100000000", "--node-ip-address=127.0.0.1", *options]
    if not any(option.startswith("--port=") for option in options):
        command.append("--port=0")
    address_file, deadline, head = temporary / "ray_current_cluster", time.monotonic() + 180, None
    try:
        while not (address_file.exists() and address_file.read_text().strip()):  # it is there before its text is
            assert time.monotonic() < deadline, log.read_text()
            if head is None or head.poll() is not None:
                assert head is None or "timed out during startup" in log.read_text(), log.read_text()
                head = subprocess.Popen(command, cwd=folder, env=env, stdout=log.open("wb"), stderr=subprocess.STDOUT)
            time.sleep(0.1)
        yield address_file.read_text().strip(), env
    finally:
        if head is not None:
            stop_process(head)


def stop_process(process: subprocess.Popen[bytes]) -> None:
    """Ask the process to end, and kill it if it has not within half a minute."""
    process.terminate()
    try:
        process.wait(30)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def shorten_folder(folder: Path) -> Path:
    """Ray's sockets lie below its folder, and their paths may have 107 characters."""
    short = Path("/tmp") / f"mg-{os.getpid()}-{abs(hash(folder)) % 10**6}"
    short.mkdir(exist_ok=True)
    return short


@pytest.fixture
def cli(tmp_path: Path) -> Iterator[Cli]:
    """The command line, without any service. What a failed test left running ends with it."""
    cli = Cli(tmp_path, {"PYTHONPATH": str(ROOT), "PREFECT_HOME": str(tmp_path / "prefect")})
    yield cli
    for process in cli.started:
        if process.poll() is None:
            process.kill()


@pytest.fixture
def served_cli(cli: Cli, prefect_url: str, ray_address: str, s3: S3) -> Cli:
    """The command line with Prefect, Ray and S3 at hand."""
    env = {"PREFECT_API_URL": prefect_url, "RAY_ADDRESS": ray_address, **TOKEN, **s3.env}
    return Cli(cli.folder, {**cli.env, **env}, cli.started)


@pytest.fixture
def write_rows(tmp_path: Path) -> Callable[..., Path]:
    """Writes rows as a CSV manifest."""

    def write(rows: list[dict[str, object]], name: str = "rows.csv") -> Path:
        path = tmp_path / name
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(dict.fromkeys(column for row in rows for column in row)))
            writer.writeheader()
            writer.writerows(rows)
        return path

    return write


def sounds(uri: str) -> dict[str, str]:
    """The index as key -> sha256 of the audio; every key must be there once."""
    import musicgen.dataset

    table = musicgen.dataset.open_dataset(uri).to_arrow(["key", "audio_sha256"]).to_pydict()
    assert len(set(table["key"])) == len(table["key"])
    return dict(zip(table["key"], table["audio_sha256"], strict=True))


def told(process: subprocess.CompletedProcess[str]) -> dict:
    """What a command with --json said."""
    return json.loads(process.stdout)
