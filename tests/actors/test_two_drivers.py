"""Two drivers of one run, each in one process without Ray: they share its rows."""

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from actors import driver_watch
from actors.actor_config import ActorConfig
from actors.cluster import Cluster, join_cluster
from actors.messages import GenerationResult
from musicgen.clip import Clip
from musicgen.cluster_settings import ClusterSettings
from musicgen.request import Request
from tests.actors.engines import ScriptedEngine
from tests.actors.in_process import make_noise

ROWS = 40
pytestmark = pytest.mark.timeout(150, func_only=True)


@pytest.fixture(scope="module")
def cluster() -> Cluster:
    """One process, in the place of the Ray of the other tests."""
    with join_cluster(ClusterSettings(address="none", cpus_per_actor=1)) as cluster:
        return cluster


@pytest.mark.parametrize("late", [False, True], ids=["at once", "one later"])
def test_two_drivers_share_the_rows_of_a_run(
    planned: Callable[..., Any], late: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("_ALONE_INTERVAL_S", "_SHARED_INTERVAL_S", "_SHORTEST_INTERVAL_S"):  # as loads and shards are shorter
        monkeypatch.setattr(driver_watch, name, getattr(driver_watch, name) / 20)
    run = planned([f"tune {row}" for row in range(ROWS)], slots=1, shard_rows=2)
    generated: list[str] = []
    first_at_work = threading.Event()

    def make(request: Request) -> Clip:
        generated.append(request.prompt)
        first_at_work.set()
        time.sleep(0.1)
        return make_noise(request)

    def load_slowly(config: ActorConfig) -> ScriptedEngine:
        time.sleep(0.5)
        return ScriptedEngine(slots=1, make=make)

    results: dict[int, GenerationResult] = {}

    def run_driver(number: int) -> None:
        if number and late:
            first_at_work.wait()
        results[number] = run.run(load_slowly)

    threads = [threading.Thread(target=run_driver, args=(number,), daemon=True) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(results) == 2, "both wait for each other"
    assert [result.progress.settled for result in results.values()] == [ROWS, ROWS]
    made = [result.progress.made for result in results.values()]
    assert min(made) >= 4, made
    assert sum(made) == len(run.sounds()) == ROWS
    assert len(generated) <= 1.1 * ROWS
