"""Watches the Ray processes that a driver depends on, from threads of its own.

Ray itself says nothing when the local node's daemon (raylet) ends, and ends the driver without a word of ours a minute
after the cluster's head (GCS) is gone. Calls of Ray that ask the head do not return meanwhile, so the loop of the
driver makes none.
"""

import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress

import ray

from actors.cluster import Cluster
from actors.messages import ActorsFailed

_INTERVAL_S = 2.0
_NODES_INTERVAL_S = 5.0
_CONNECT_TIMEOUT_S = 5.0
_PATIENCE_S = 3.0  # with a process that refuses connections
_JOINED_HEAD_PATIENCE_S = 30.0  # with the head of a cluster, which may be started again; Ray ends the driver after 60 s
_GO_ON = "what is committed is safe; run the same job again to go on"


class ClusterWatch:
    """Knows the cluster's live nodes, and whether the local raylet and the GCS still listen."""

    def __init__(self, cluster: Cluster):
        self.live_nodes: frozenset[str] = frozenset()
        self.usable_nodes: frozenset[str] = frozenset()  # those large enough for an actor
        self.hosts: dict[str, str] = {}  # node -> host name
        self._cluster = cluster
        self._raylet_lost_at: float | None = None
        self._head_lost_at: float | None = None
        self._ended = threading.Event()
        node = ray._private.worker._global_node  # None for a `ray://` client, which has no local raylet
        self._raylet_socket = "" if node is None else str(node.raylet_socket_name)
        self._head_address = "" if node is None else str(node.gcs_address)

    def start(self) -> None:
        """Start watching."""
        for watch, interval_s in ((self._look_at_daemons, _INTERVAL_S), (self._look_at_nodes, _NODES_INTERVAL_S)):
            threading.Thread(target=self._repeat, args=(watch, interval_s), name="cluster watch", daemon=True).start()

    def close(self) -> None:
        """Stop watching. A thread that waits for an answer is left behind."""
        self._ended.set()

    def check(self) -> None:
        """Raise `ActorsFailed` if the driver cannot go on without what has ended."""
        if _seconds_since(self._raylet_lost_at) > _PATIENCE_S:
            raise ActorsFailed(f"the local Ray node (raylet) has ended; {_GO_ON}")
        if self.head_lost_s > (_PATIENCE_S if self._cluster.started_here else _JOINED_HEAD_PATIENCE_S):
            raise ActorsFailed(f"the head of the Ray cluster (GCS at {self._head_address}) has ended; {_GO_ON}")

    @property
    def head_lost_s(self) -> float:
        """For how many seconds the head of the cluster has refused connections."""
        return _seconds_since(self._head_lost_at)

    def is_alive(self, node: str) -> bool:
        """Whether the node was alive when it was last looked at, or is not known."""
        return not node or not self.live_nodes or node in self.live_nodes

    def _repeat(self, watch: Callable[[], None], interval_s: float) -> None:
        while not self._ended.is_set():
            with suppress(Exception):
                watch()
            self._ended.wait(interval_s)

    def _look_at_nodes(self) -> None:
        nodes = [node for node in ray.nodes() if node["Alive"]]
        self.hosts |= {node["NodeID"]: node["NodeManagerHostname"] for node in nodes}
        self.live_nodes = frozenset(node["NodeID"] for node in nodes)
        self.usable_nodes = frozenset(
            node["NodeID"]
            for node in nodes
            if node["Resources"].get("CPU", 0) >= self._cluster.cpus_per_actor
            and node["Resources"].get("GPU", 0) >= self._cluster.gpus_per_actor
        )

    def _look_at_daemons(self) -> None:
        if self._raylet_socket and _refuses(socket.AF_UNIX, self._raylet_socket):
            self._raylet_lost_at = self._raylet_lost_at or time.monotonic()
        else:
            self._raylet_lost_at = None
        host, _, port = self._head_address.rpartition(":")
        if self._head_address and _refuses(_family_of(host), (host.strip("[]"), int(port))):
            self._head_lost_at = self._head_lost_at or time.monotonic()
        else:
            self._head_lost_at = None


def _family_of(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def _refuses(family: socket.AddressFamily, address: str | tuple[str, int]) -> bool:
    """Whether nobody listens there. A process that is stopped, or busy, still listens."""
    with socket.socket(family, socket.SOCK_STREAM) as connection:
        connection.settimeout(_CONNECT_TIMEOUT_S)
        try:
            connection.connect(address)
        except (ConnectionRefusedError, FileNotFoundError):
            return True
        except OSError:
            return False
    return False


def _seconds_since(time_s: float | None) -> float:
    return 0.0 if time_s is None else time.monotonic() - time_s
