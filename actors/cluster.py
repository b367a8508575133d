"""The Ray cluster that actors run on: one that is joined, or a local one that is started and ends with the run.

A local cluster listens on loopback where Ray allows it. The other ports demand a token, which is Ray's own default.
"""

import os
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from math import ceil

from actors.actor_share import NodeSize, choose_threads, find_local_node, share_nodes
from actors.ray_start import connect_to_ray, list_withheld, start_local_ray, stop_ray
from musicgen.cluster_settings import NO_CLUSTER, ClusterSettings
from musicgen.errors import JobError
from musicgen.plan.expected_actors import ActorsStart, ExpectedActors

# The AWS settings that workers get from the driver, so that they look for the store in the same place. Credentials are
# left out, because Ray would keep them in its metadata; workers have credentials of their own.
FORWARDED_ENV = (
    "AWS_ENDPOINT_URL",
    "AWS_ENDPOINT_URL_S3",
    "AWS_REGION",
    "AWS_DEFAULT_REGION",
    "MUSICGEN_STORE_TIMEOUT_S",
)
_PROXY_ENV = ("HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy")  # are not sent


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
    auto_actors: int = 1  # what `cluster.actors: auto` stands for
    start_s: float = 0.0  # that starting or joining it took
    node_labels: Mapping[str, str] = field(default_factory=dict)  # that a node must have to get an actor
    preferred_labels: Mapping[str, str] = field(default_factory=dict)

    def expect_actors(self, settings: ClusterSettings) -> ExpectedActors:
        """Return the actors that a job will have here."""
        fewest, most = settings.resolve_actors(self.auto_actors)
        threads = choose_threads(self.cpus_per_actor, self.cpus if self.nodes == 1 else 0.0)
        start: ActorsStart = "local_ray" if self.started_here else "joined"
        if self.in_process:
            start = "in_process"
        return ExpectedActors(fewest, most, self.gpus_per_actor, threads, start)

    @property
    def in_process(self) -> bool:
        """Whether there is no Ray: the actor is this process."""
        return self.address == NO_CLUSTER

    @property
    def description(self) -> str:
        """One line for people."""
        name = "a local Ray started for this run" if self.started_here else f"the Ray cluster at {self.address}"
        if self.in_process:
            name = "this machine, in one process without Ray"
        gpus = f", {self.gpus:g} GPU" if self.gpus else ""
        nodes = f"{self.nodes} nodes, " if self.nodes > 1 else ""
        return f"{name} ({nodes}{self.cpus:g} CPU{gpus})"

    @property
    def environment_note(self) -> str | None:
        """One line on variables of the driver that workers may miss; without their values."""
        names = [] if self.started_here else list_withheld([*_PROXY_ENV, *FORWARDED_ENV])
        if not names:
            return None
        return (
            f"not sent to the workers, because Ray would show the password: {', '.join(names)}; if they need it, set "
            "it in the environment in which Ray's nodes are started"
        )


def check_address(settings: ClusterSettings) -> None:
    """Check within seconds that the cluster to be joined answers; Ray itself would try for minutes.

    Raises `JobError`.
    """
    address = find_address(settings)
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


def find_address(settings: ClusterSettings) -> str:
    """Return the address of the cluster to join; empty if a local one is to be started, or none."""
    address = os.environ.get("RAY_ADDRESS", "") if settings.address == "auto" else settings.address
    return "" if address in ("local", NO_CLUSTER) else address


def expect_local_actors(settings: ClusterSettings, device: str) -> ExpectedActors:
    """Return the actors that a job will have on a local Ray, before it is started; `device` is `model.device`."""
    if settings.address == NO_CLUSTER:
        return _describe_process(settings, device).expect_actors(settings)
    node = find_local_node()
    share = share_nodes(settings, device, [node])
    fewest, most = settings.resolve_actors(share.auto_actors)
    return ExpectedActors(fewest, most, share.gpus, choose_threads(share.cpus, node.cpus))


@contextmanager
def join_cluster(
    settings: ClusterSettings, verbose: bool = False, device: str = "auto", brings_code: bool = True
) -> Iterator[Cluster]:
    """Connect this process to the job's cluster: `address`, else the one that RAY_ADDRESS names, else a local one.

    With `address` none there is no cluster, and the actor is this process.

    `device` is `model.device`. With `brings_code` the workers of a joined cluster get our code; who only asks what the
    cluster has does without. Raises `JobError` if the cluster cannot be joined.
    """
    if settings.address == NO_CLUSTER:
        yield _describe_process(settings, device)
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ENABLE_AUTO_CONNECT", "0")  # a call after the end must fail, not start another cluster
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # else a warning on machines without GPU
    address = find_address(settings)
    begun_at = time.monotonic()
    import ray

    # Ray prints the death of every worker to the driver's stderr, and no setting prevents it; the summary counts them.
    ray._private.worker._worker_logs_enabled = verbose
    try:
        if address:
            connect_to_ray(address, FORWARDED_ENV, verbose, brings_code)
        else:
            start_local_ray(_count_local_cpus(settings, device), verbose)
        yield replace(_describe_cluster(settings, device, address), start_s=time.monotonic() - begun_at)
    finally:
        stop_ray()


def _count_local_cpus(settings: ClusterSettings, device: str) -> int:
    """Return the CPUs that a local Ray has: more actors than cores are slow, but a job may demand them."""
    node = find_local_node()
    share = share_nodes(settings, device, [node])
    fewest, _ = settings.resolve_actors(share.auto_actors)
    return max(int(node.cpus), ceil(fewest * share.cpus - 1e-6))


def _describe_process(settings: ClusterSettings, device: str) -> Cluster:
    """Return the cluster that this process is by itself, with one actor."""
    node = find_local_node()
    share = share_nodes(settings, device, [node])
    return Cluster(
        address=NO_CLUSTER,
        started_here=True,
        nodes=1,
        cpus=node.cpus,
        gpus=node.gpus,
        cpus_per_actor=share.cpus,
        gpus_per_actor=share.gpus,
    )


def _describe_cluster(settings: ClusterSettings, device: str, address: str) -> Cluster:
    """Return the cluster that this process is connected to; `address` is empty for a local one."""
    import ray

    labels = settings.node_labels
    nodes = [node for node in ray.nodes() if node["Alive"] and labels.items() <= node["Labels"].items()]
    sizes = [NodeSize(node["Resources"].get("CPU", 0.0), node["Resources"].get("GPU", 0.0)) for node in nodes]
    # A head may be configured to run no actors.
    if not any(size.cpus for size in sizes) and settings.gpus_per_actor == "auto":
        raise JobError(
            f"the Ray cluster at {address} has neither CPUs nor GPUs yet, so what an actor needs is not known; "
            "set cluster.gpus_per_actor (1 where GPU nodes start on demand)"
        )
    share = share_nodes(settings, device, sizes)
    return Cluster(
        address=address or "local",
        started_here=not address,
        nodes=len(nodes),
        cpus=sum(size.cpus for size in sizes),
        gpus=sum(size.gpus for size in sizes),
        cpus_per_actor=share.cpus,
        gpus_per_actor=share.gpus,
        auto_actors=share.auto_actors,
        node_labels=settings.node_labels,
        preferred_labels=settings.preferred_labels,
    )
