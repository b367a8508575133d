"""Ray's own processes end under a run: the node's daemon (raylet), and the cluster's head (GCS)."""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import ray

from actors.cluster import Cluster, join_cluster
from actors.messages import ActorsFailed
from musicgen.cluster_settings import ClusterSettings
from tests.actors import engines

pytestmark = pytest.mark.timeout(280, func_only=True)


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """A local Ray of the test's own."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))  # workers import the engines of these tests
    with join_cluster(ClusterSettings(actors=1, cpus_per_actor=1)) as cluster:
        yield cluster


@pytest.mark.slow
@pytest.mark.parametrize(
    ("process", "message"),
    [
        ("raylet", r"the local Ray node \(raylet\) has ended; .* run the same job again"),
        pytest.param("gcs_server", r"the head of the Ray cluster .* has ended; .*", marks=pytest.mark.slow),
    ],
)
def test_the_run_ends_in_one_line_and_the_actor_ends_too(planned, process, message):
    run = planned([f"tune {i}" for i in range(40)], actors=1, shard_rows=2)
    struck: list[float] = []
    actors: list[psutil.Process] = []

    def kill(pool, progress) -> None:
        if not struck and progress.made:
            actors.extend(psutil.Process(actor.pid) for actor in pool._loaded_actors)
            struck.append(time.monotonic())
            os.kill(ray._private.worker._global_node.all_processes[process][0].process.pid, signal.SIGKILL)

    with pytest.raises(ActorsFailed, match=message):
        run.run(engines.make_slow, watch=kill)
    assert time.monotonic() - struck[0] < 40  # Ray itself would take a minute, and then end this process
    ray.shutdown()
    _gone, alive = psutil.wait_procs(actors, timeout=15)
    assert not alive
    assert run.sounds()
