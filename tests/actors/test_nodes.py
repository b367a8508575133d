"""Real nodes that come and go: Ray clusters of several nodes on this machine."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import psutil
import pytest
import ray
import ray.cluster_utils

from actors import waits
from actors.cluster import Cluster
from tests.actors import engines
from tests.actors.conftest import QUICK, Planned

pytestmark = pytest.mark.timeout(280, func_only=True)

_FAST_HEALTH_CHECKS = {  # a node's loss is noticed after 2 s instead of 20
    "RAY_health_check_period_ms": "500",
    "RAY_health_check_timeout_ms": "1000",
    "RAY_health_check_failure_threshold": "3",
    "RAY_health_check_initial_delay_ms": "0",
}


class Nodes:
    """A Ray cluster whose head runs no actors."""

    def __init__(self) -> None:
        options = {"num_cpus": 0, "include_dashboard": False, "object_store_memory": 100 << 20}
        self.ray = ray.cluster_utils.Cluster(initialize_head=True, head_node_args=options)
        ray.init(address=self.ray.address, log_to_driver=False)
        self.cluster = Cluster(self.ray.address, False, 1, 0.0, 0.0, 1.0, 0.0)

    def add(self, **labels: str) -> Any:
        """Add a node that has room for one actor."""
        return self.ray.add_node(wait=False, num_cpus=1, object_store_memory=100 << 20, labels=labels)

    def kill(self, node: Any) -> None:
        """Kill a node at once, with all its processes."""
        raylet = node.all_processes["raylet"][0].process
        for process in psutil.Process(raylet.pid).children(recursive=True):
            process.kill()
        raylet.kill()


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in _FAST_HEALTH_CHECKS.items():
            patch.setenv(name, value)
        nodes = Nodes()
        yield nodes
        ray.shutdown()
        nodes.ray.shutdown()


@pytest.fixture(scope="module")
def cluster(nodes: Nodes) -> Cluster:
    return nodes.cluster


def _node_of(nodes: Nodes, run: Planned, pool: Any) -> Any:
    (state,) = [state for state in pool._loop._dispatcher.actors.values() if state.ready]
    return next(node for node in nodes.ray.worker_nodes if node.node_id == state.node)


@pytest.mark.slow
@pytest.mark.parametrize("losses", [1, 5])
def test_the_loss_of_nodes_condemns_no_row_and_waiting_for_one_is_said(planned, nodes, monkeypatch, losses):
    monkeypatch.setattr(waits, "_SHOWN_AFTER_S", 1.0)
    run = planned([f"tune {i}" for i in range(12)], actors=1, shard_rows=2)
    lost: list[int] = []
    waited: set[str] = set()

    def watch(pool, progress) -> None:
        waited.update(progress.waiting_for)
        if not nodes.ray.worker_nodes and "1 actor wanted, room for 0" in progress.waiting_for:
            nodes.add()
        busy = [state for state in pool._loop._dispatcher.actors.values() if state.attempts and state.node]
        if busy and len(lost) < losses and progress.settled > len(lost) and pool._loaded_actors[-1].pid not in lost:
            lost.append(pool._loaded_actors[-1].pid)
            node = _node_of(nodes, run, pool)
            nodes.kill(node)
            nodes.ray.worker_nodes.discard(node)
            nodes.add()

    limits = replace(QUICK, start_timeout_s=60.0, heartbeat_timeout_s=60.0)
    seen: list[tuple[Any, Any]] = []
    with ThreadPoolExecutor(1) as executor:
        running = executor.submit(run.run, engines.make_slow, limits, lambda *state: seen.append(state))
        while not running.done():  # nodes are added in this thread, because Ray sets signal handlers then
            time.sleep(0.05)
            if seen:
                watch(*seen[-1])
    result = running.result()
    assert "1 actor wanted, room for 0" in waited
    assert len(lost) == losses
    progress = result.progress
    assert (progress.made, progress.failed, progress.losses, progress.crashes) == (12, 0, losses, 0)
    assert len(run.sounds()) == 12


@pytest.mark.slow
@pytest.mark.parametrize(
    ("required", "preferred", "market"),
    [
        ({"market": "steady"}, {}, "steady"),
        ({}, {"market": "spot"}, "spot"),
        ({}, {"market": "steady"}, "steady"),
        ({"market": "spot"}, {"zone": "none"}, "spot"),  # no node has the label that is preferred
    ],
)
def test_actors_start_on_nodes_with_the_labels_that_the_job_names(planned, nodes, required, preferred, market):
    for name in {"spot", "steady"} - {node["Labels"].get("market") for node in ray.nodes() if node["Alive"]}:
        nodes.add(market=name)
    run = planned(["tune"], actors=1)
    cluster = replace(nodes.cluster, node_labels=required, preferred_labels=preferred)
    used: set[str] = set()
    limits = replace(QUICK, start_timeout_s=60.0, heartbeat_timeout_s=60.0)
    result = replace(run, cluster=cluster).run(
        engines.make_slow,
        limits,
        lambda pool, _: used.update(state.node for state in pool._loop._dispatcher.actors.values() if state.ready),
    )
    assert result.progress.made == 1
    markets = {node["NodeID"]: node["Labels"].get("market") for node in ray.nodes()}
    assert {markets[node] for node in used} == {market}
