"""Where actors run: a cluster that is joined, or a small local one of our own that ends with the run.

A local cluster is on loopback where Ray lets it; for the ports where Ray does not, it demands a token (Ray's own
default).
"""

import logging
import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from actors.environment import package_folders
from musicgen.errors import JobError, first_line
from musicgen.job import ClusterSettings

# Where the store is, so that workers look for it in the same place. Never who we are: secrets given to Ray would lie in
# its metadata; workers have credentials of their own.
_PLACES = ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_REGION", "AWS_DEFAULT_REGION")
_OBJECT_STORE_BYTES = 100 << 20  # nothing large crosses it


@dataclass(frozen=True)
class Cluster:
    """A Ray that is up, and what one actor gets of it."""

    address: str
    ours: bool  # started by us; ends with us
    nodes: int
    cpus: float
    gpus: float
    cpus_per_actor: float
    gpus_per_actor: float

    @property
    def description(self) -> str:
        """One line for people."""
        what = "a local Ray started for this run" if self.ours else f"the Ray cluster at {self.address}"
        gpus = f", {self.gpus:g} GPU" if self.gpus else ""
        nodes = f"{self.nodes} nodes, " if self.nodes > 1 else ""
        return f"{what} ({nodes}{self.cpus:g} CPU{gpus})"

    @property
    def threads(self) -> int:
        """Threads for one actor's arithmetic."""
        return max(1, int(self.cpus_per_actor))


def check_address(settings: ClusterSettings) -> None:
    """Fail within seconds if the cluster that will be joined does not answer; Ray itself would try for minutes.

    Raises `JobError`.
    """
    address = _address(settings)
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not address or not port.isdigit():
        return
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except OSError as error:
        raise JobError(
            f"the Ray cluster at {address} does not answer ({error.strerror or error}); check cluster.address and "
            "RAY_ADDRESS, "
            "or set cluster.address=local"
        ) from None


def _address(settings: ClusterSettings) -> str:
    """The cluster to join; empty for one of our own."""
    address = os.environ.get("RAY_ADDRESS", "") if settings.address == "auto" else settings.address
    return "" if address == "local" else address


@contextmanager
def join_cluster(settings: ClusterSettings, verbose: bool = False) -> Iterator[Cluster]:
    """The cluster of the job: `address`, else the one that RAY_ADDRESS names, else a local one.

    Raises `JobError` if the cluster cannot be joined.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ENABLE_AUTO_CONNECT", "0")  # a call after the end must fail, not start another cluster
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # else a warning on machines without GPU
    address = _address(settings)
    ours = not address
    import ray

    # Ray prints every worker's death to the driver's stderr, whatever it is told; the summary counts them.
    ray._private.worker._worker_logs_enabled = verbose
    # Ray puts a SIGTERM handler of its own in place; who stops this process is for the caller to say.
    in_main = threading.current_thread() is threading.main_thread()
    on_sigterm = signal.getsignal(signal.SIGTERM) if in_main else None
    try:
        _start(settings, verbose) if ours else _connect(address, verbose)
        if on_sigterm is not None:
            signal.signal(signal.SIGTERM, on_sigterm)
        yield _describe(settings, address or "local", ours)
    finally:
        ray.shutdown()


def _start(settings: ClusterSettings, verbose: bool) -> None:
    import ray

    cpus = os.cpu_count() or 1
    wanted = settings.min_actors * (1 if settings.cpus_per_actor == "auto" else settings.cpus_per_actor)
    ray.init(
        address="local",
        num_cpus=max(cpus, int(wanted + 0.999)),  # more actors than cores are slow, but they were asked for
        include_dashboard=False,
        object_store_memory=_OBJECT_STORE_BYTES,
        _node_ip_address="127.0.0.1",
        **_quiet(verbose),
    )


def _connect(address: str, verbose: bool) -> None:
    import ray

    environment: dict[str, Any] = {
        "py_modules": [str(folder) for folder in package_folders()],
        "env_vars": {name: os.environ[name] for name in _PLACES if name in os.environ},
    }
    try:
        ray.init(address=address, runtime_env=environment, **_quiet(verbose))
    except (ConnectionError, RuntimeError, ValueError) as error:
        reason = first_line(error)
        raise JobError(
            f"the Ray cluster at {address} cannot be joined: {reason}; check cluster.address and RAY_ADDRESS, and "
            "if it demands a "
            "token set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN"
        ) from None


def _quiet(verbose: bool) -> dict[str, Any]:
    return {"logging_level": logging.INFO if verbose else logging.CRITICAL, "log_to_driver": verbose}


def _describe(settings: ClusterSettings, address: str, ours: bool) -> Cluster:
    import ray

    resources = ray.cluster_resources()
    cpus, gpus = resources.get("CPU", 0.0), resources.get("GPU", 0.0)
    nodes = [node for node in ray.nodes() if node["Alive"]]
    working = [node for node in nodes if node["Resources"].get("CPU")]  # a head may be told to take no work
    if not working and settings.gpus_per_actor == "auto":
        raise JobError(
            f"the Ray cluster at {address} has neither CPUs nor GPUs yet, so what an actor needs cannot be told; "
            "set cluster.gpus_per_actor (1 where GPU nodes start on demand)"
        )
    gpus_per_actor = (1.0 if gpus else 0.0) if settings.gpus_per_actor == "auto" else settings.gpus_per_actor
    if settings.cpus_per_actor != "auto":
        cpus_per_actor = settings.cpus_per_actor
    elif gpus_per_actor:
        cpus_per_actor = 1.0
    else:
        smallest = min((node["Resources"]["CPU"] for node in working), default=1.0)
        actors_per_node = -(-settings.max_actors // max(1, len(working)))
        cpus_per_actor = float(max(1, int(smallest // actors_per_node)))
    return Cluster(address, ours, len(nodes), cpus, gpus, float(cpus_per_actor), float(gpus_per_actor))
