"""The Ray cluster that actors run on: one that is joined, or a local one that is started and ends with the run.

A local cluster listens on loopback where Ray allows it. The other ports demand a token, which is Ray's own default.
"""

import logging
import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypedDict

from actors.environment import find_package_folders
from musicgen.errors import JobError, first_line
from musicgen.job import ClusterSettings

# The AWS settings that workers get from the driver, so that they look for the store in the same place. Credentials are
# left out, because Ray would keep them in its metadata; workers have credentials of their own.
FORWARDED_ENV = ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_REGION", "AWS_DEFAULT_REGION")
_OBJECT_STORE_BYTES = 100 << 20  # only small messages go through Ray's object store


@dataclass(frozen=True)
class Cluster:
    """A running Ray cluster, and the share of it that one actor gets."""

    address: str
    started_here: bool  # by this process, and it ends with this process
    nodes: int
    cpus: float
    gpus: float
    cpus_per_actor: float
    gpus_per_actor: float

    @property
    def description(self) -> str:
        """One line for people."""
        name = "a local Ray started for this run" if self.started_here else f"the Ray cluster at {self.address}"
        gpus = f", {self.gpus:g} GPU" if self.gpus else ""
        nodes = f"{self.nodes} nodes, " if self.nodes > 1 else ""
        return f"{name} ({nodes}{self.cpus:g} CPU{gpus})"

    @property
    def threads_per_actor(self) -> int:
        """CPU threads for the arithmetic of one actor."""
        return max(1, int(self.cpus_per_actor))


def check_address(settings: ClusterSettings) -> None:
    """Check within seconds that the cluster to be joined answers; Ray itself would try for minutes.

    Raises `JobError`.
    """
    address = _find_address(settings)
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not address or not port.isdigit():
        return
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except OSError as error:
        raise JobError(
            f"the Ray cluster at {address} does not answer ({error.strerror or error}); check cluster.address and "
            "RAY_ADDRESS, or set cluster.address=local"
        ) from None


def _find_address(settings: ClusterSettings) -> str:
    """Return the address of the cluster to join; empty if a local one is to be started."""
    address = os.environ.get("RAY_ADDRESS", "") if settings.address == "auto" else settings.address
    return "" if address == "local" else address


@contextmanager
def join_cluster(settings: ClusterSettings, verbose: bool = False) -> Iterator[Cluster]:
    """Connect this process to the job's cluster: `address`, else the one that RAY_ADDRESS names, else a local one.

    Raises `JobError` if the cluster cannot be joined.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ENABLE_AUTO_CONNECT", "0")  # a call after the end must fail, not start another cluster
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # else a warning on machines without GPU
    address = _find_address(settings)
    import ray

    # Ray prints the death of every worker to the driver's stderr, and no setting prevents it; the summary counts them.
    ray._private.worker._worker_logs_enabled = verbose
    # Ray installs a SIGTERM handler of its own; the one that the caller has installed is put back.
    in_main_thread = threading.current_thread() is threading.main_thread()
    sigterm_handler = signal.getsignal(signal.SIGTERM) if in_main_thread else None
    try:
        if address:
            _connect_to(address, verbose)
        else:
            _start_local(settings, verbose)
        if sigterm_handler is not None:
            signal.signal(signal.SIGTERM, sigterm_handler)
        yield _describe_cluster(settings, address)
    finally:
        ray.shutdown()


def _start_local(settings: ClusterSettings, verbose: bool) -> None:
    import ray

    cpus_per_actor = 1 if settings.cpus_per_actor == "auto" else settings.cpus_per_actor
    needed_cpus = int(settings.min_actors * cpus_per_actor + 0.999)
    ray.init(
        address="local",
        num_cpus=max(os.cpu_count() or 1, needed_cpus),  # more actors than cores are slow, but the job demands them
        include_dashboard=False,
        object_store_memory=_OBJECT_STORE_BYTES,
        _node_ip_address="127.0.0.1",
        **_make_log_options(verbose),
    )


def _connect_to(address: str, verbose: bool) -> None:
    import ray

    environment = {
        "py_modules": [str(folder) for folder in find_package_folders()],
        "env_vars": {name: os.environ[name] for name in FORWARDED_ENV if name in os.environ},
    }
    try:
        ray.init(address=address, runtime_env=environment, **_make_log_options(verbose))
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise JobError(
            f"the Ray cluster at {address} cannot be joined: {first_line(error)}; check cluster.address and "
            "RAY_ADDRESS, and if it demands a token set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN"
        ) from None


class _LogOptions(TypedDict):
    logging_level: int
    log_to_driver: bool


def _make_log_options(verbose: bool) -> _LogOptions:
    return {"logging_level": logging.INFO if verbose else logging.CRITICAL, "log_to_driver": verbose}


def _describe_cluster(settings: ClusterSettings, address: str) -> Cluster:
    """Return the cluster that this process is connected to; `address` is empty for a local one."""
    import ray

    resources = ray.cluster_resources()
    cpus, gpus = resources.get("CPU", 0.0), resources.get("GPU", 0.0)
    nodes = [node for node in ray.nodes() if node["Alive"]]
    workers = [node for node in nodes if node["Resources"].get("CPU")]  # a head may be configured to run no actors
    if not workers and settings.gpus_per_actor == "auto":
        raise JobError(
            f"the Ray cluster at {address} has neither CPUs nor GPUs yet, so what an actor needs is not known; "
            "set cluster.gpus_per_actor (1 where GPU nodes start on demand)"
        )
    gpus_per_actor = (1.0 if gpus else 0.0) if settings.gpus_per_actor == "auto" else settings.gpus_per_actor
    if settings.cpus_per_actor != "auto":
        cpus_per_actor = settings.cpus_per_actor
    elif gpus_per_actor:
        cpus_per_actor = 1.0
    else:
        fewest_cpus = min((node["Resources"]["CPU"] for node in workers), default=1.0)
        actors_per_node = -(-settings.max_actors // max(1, len(workers)))
        cpus_per_actor = float(max(1, int(fewest_cpus // actors_per_node)))
    return Cluster(
        address=address or "local",
        started_here=not address,
        nodes=len(nodes),
        cpus=cpus,
        gpus=gpus,
        cpus_per_actor=float(cpus_per_actor),
        gpus_per_actor=float(gpus_per_actor),
    )
