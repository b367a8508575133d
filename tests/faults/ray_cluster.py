"""A Ray cluster whose processes can be killed one by one."""

import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import psutil

from tests.faults.servers import ROOT

_HOOKS = Path(__file__).with_name("hooks")
_NODES = 2
_START_TRIES = 6
# A lost node is noticed within 5 s instead of 20.
_RAY_ENV = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "2000",
    "RAY_health_check_failure_threshold": "3",
    "RAY_health_check_initial_delay_ms": "0",
}


class RayCluster:
    """A Ray cluster of two nodes beside a head without CPUs (tests/faults/ray_nodes.py).

    `env` reaches the actors; workers take the store's credentials from there.
    """

    def __init__(self, folder: Path, env: Mapping[str, str]):
        self._folder = folder
        self.token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
        self._env = {**env, **self.token, **_RAY_ENV, "PYTHONPATH": str(_HOOKS)}
        self._process: subprocess.Popen[str] | None = None
        self._session = 0
        self.address = ""
        self.gcs = 0
        self.raylets: list[int] = []  # of the nodes with a CPU

    def start(self) -> None:
        """Start a new cluster, at a new address. Ray gives itself 30 s, which a busy machine may exceed."""
        for _ in range(_START_TRIES - 1):
            try:
                return self._start()
            except RuntimeError:
                self.close()
        return self._start()

    def _start(self) -> None:
        self._session += 1
        folder = Path(f"/tmp/mgr{os.getpid()}-{self._session}")  # paths of Ray's sockets have at most 107 characters
        self._folder.mkdir(parents=True, exist_ok=True)
        with (self._folder / "ray.log").open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.faults.ray_nodes", str(folder)],
                cwd=ROOT,
                env={**os.environ, **self._env},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                start_new_session=True,
            )
        started = json.loads(self._read_line())
        self.address, self.gcs = started["address"], started["head"]["gcs"]
        self.raylets = [node["raylet"] for node in started["nodes"]]

    def add_node(self) -> None:
        """Add a node with one CPU."""
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.write("add\n")
        self._process.stdin.flush()
        self.raylets.append(json.loads(self._read_line())["raylet"])

    @property
    def lives(self) -> bool:
        """Whether its GCS runs; without it a cluster is lost."""
        return _runs(self.gcs)

    def restore_nodes(self) -> None:
        """Continue stopped nodes, and add those that are missing, such as one that Ray gave up on a busy machine."""
        for raylet in self.raylets:
            with suppress(ProcessLookupError):
                os.kill(raylet, signal.SIGCONT)
        self.raylets = [raylet for raylet in self.raylets if _runs(raylet)]
        while len(self.raylets) < _NODES:
            self.add_node()

    def kill_node(self, raylet: int, whole: bool) -> None:
        """Kill a node's raylet, and with `whole` everything it started, as when its machine is gone."""
        family = find_family(raylet)
        kill_all(family if whole else family[:1])
        self.raylets.remove(raylet)

    def find_actors(self) -> list[psutil.Process]:
        """The processes of our actors, orphans of lost nodes too."""
        return [process for process in psutil.process_iter() if self._is_actor(process)]

    def close(self) -> None:
        """End everything that belongs to it."""
        actors = self.find_actors()
        if self._process is not None:
            kill_all([*find_family(self._process.pid), *actors])
            self._process.wait()
        shutil.rmtree(f"/tmp/mgr{os.getpid()}-{self._session}", ignore_errors=True)

    def _is_actor(self, process: psutil.Process) -> bool:
        with suppress(psutil.Error):
            if "Generator" in " ".join(process.cmdline()) and process.status() != psutil.STATUS_ZOMBIE:
                return process.environ().get("RAY_AUTH_TOKEN") == self.token["RAY_AUTH_TOKEN"]
        return False

    def _read_line(self) -> str:
        assert self._process is not None
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"Ray did not start:\n{(self._folder / 'ray.log').read_text()[-2000:]}")
        return line


def _runs(pid: int) -> bool:
    with suppress(psutil.Error):
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    return False


def find_family(pid: int) -> list[psutil.Process]:
    """The process and all its descendants that live; empty if it is gone."""
    with suppress(psutil.Error):
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    return []


def kill_all(processes: Sequence[psutil.Process]) -> None:
    """Kill these processes, as far as they still live."""
    for process in processes:
        with suppress(psutil.Error):
            process.kill()
