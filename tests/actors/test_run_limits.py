"""Limits of cost and time, and a pause: the run stops at its next commit, and goes on when it is run again."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from actors import driver_watch
from actors.cluster import Cluster, join_cluster
from actors.dispatcher import Dispatcher
from actors.fault_limits import make_fault_limits
from actors.messages import Progress
from actors.run_limits import RunLimits
from musicgen.clip import Clip
from musicgen.cluster_settings import ClusterSettings
from musicgen.dataset.driver_token import DriverToken, read_living_drivers
from musicgen.dataset.pause import Pause, end_pause, put_pause
from musicgen.errors import LimitReached
from musicgen.request import Request
from musicgen.storage import open_store
from tests.actors import engines
from tests.actors.in_process import make_noise

pytestmark = pytest.mark.timeout(200, func_only=True)


def make_slowly(request: Request) -> Clip:
    """A clip of noise, after a moment."""
    time.sleep(0.5)
    return make_noise(request)


class Clock:
    """A clock that a test moves."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(scope="module")
def cluster() -> Cluster:
    """One process, in the place of the Ray of the other tests."""
    with join_cluster(ClusterSettings(address="none", cpus_per_actor=1)) as cluster:
        return cluster


def start_two_actors(settings: ClusterSettings) -> Dispatcher:
    """A dispatcher of six shards with two actors, each of which makes one or more of them."""
    dispatcher = Dispatcher(range(6), lambda shard: 4, make_fault_limits(settings), 2, 2)
    dispatcher.decide(0.0)
    for actor in (0, 1):
        dispatcher.on_started(actor, "node", 0.0)
        dispatcher.on_ready(actor, 0.0, slots=4)
    dispatcher.decide(0.0)
    return dispatcher


def test_each_actor_commits_a_shard_before_the_run_stops_for_its_cost(tmp_path: Path) -> None:
    settings = ClusterSettings(price_per_hour=3.0, max_cost=10.0)
    dispatcher, clock = start_two_actors(settings), Clock()
    limits = RunLimits(settings, open_store(str(tmp_path)), spent=3.0, monotonic=clock)
    clock.now = 3600.0
    limits.check(dispatcher, None)
    assert limits.cost == pytest.approx(3.0 + 2 * 3.0)
    assert limits.describe_stop() == ()
    clock.now = 2 * 3600.0
    limits.check(dispatcher, None)
    assert limits.describe_stop() == ("stopping when 2 actors have committed a shard more",)
    held = {number: list(actor.attempts) for number, actor in dispatcher.actors.items()}
    for actor in (0, 1):
        dispatcher.on_finished(actor, held[actor][0], 4)
        limits.on_reported(actor)
        assert dispatcher.decide(1.0) == [], "no shard is given out any more"
        if actor == 0:
            limits.check(dispatcher, None)
    with pytest.raises(LimitReached, match=r"has cost 15.00, and .*--set cluster.max_cost=30$"):
        limits.check(dispatcher, None)
    assert dispatcher.shards_done == 2


def test_idle_actors_end_and_one_that_dies_is_not_waited_for(tmp_path: Path) -> None:
    settings = ClusterSettings(max_hours=1.0)
    dispatcher, clock = start_two_actors(settings), Clock()
    limits = RunLimits(settings, open_store(str(tmp_path)), spent=0.0, monotonic=clock)
    clock.now = 3600.0
    limits.check(dispatcher, None)
    dispatcher.on_died(0, "node", "its node is gone", 1.0)
    for attempt in list(dispatcher.actors[1].attempts):
        dispatcher.on_finished(1, attempt, 4)
    assert [type(action).__name__ for action in dispatcher.decide(1.0)] == ["StopActor"]
    with pytest.raises(LimitReached, match=r"stopped after 1.00 hours .*run the same command again"):
        limits.check(dispatcher, None)


def test_a_run_that_is_finished_is_not_stopped(tmp_path: Path) -> None:
    settings = ClusterSettings(max_hours=1.0)
    dispatcher = start_two_actors(settings)
    limits = RunLimits(settings, open_store(str(tmp_path)), spent=0.0)
    while not dispatcher.finished:
        for number, actor in dispatcher.actors.items():
            for attempt in list(actor.attempts):
                dispatcher.on_finished(number, attempt, 4)
        dispatcher.decide(1.0)
    limits.check(dispatcher, Pause("ada"))


def test_a_pause_stops_a_run_at_work_and_nothing_is_made_twice(
    planned: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(driver_watch, "_ALONE_INTERVAL_S", 0.2)
    monkeypatch.setattr(driver_watch, "_PAUSE_INTERVAL_S", 0.2)
    run = planned([f"tune {row}" for row in range(10)], slots=1, shard_rows=1)

    tokens: list[DriverToken] = []

    def pause_once(pool: Any, progress: Progress) -> None:
        tokens.extend(read_living_drivers(run.store, run.plan.run))
        if progress.made:
            put_pause(run.store)

    with pytest.raises(LimitReached, match=r"the dataset is paused by .* musicgen resume .*, then run the same"):
        run.run(lambda config: engines.ScriptedEngine(slots=1, make=make_slowly), watch=pause_once)
    assert any(token.progress.get("made", 0) >= 1 for token in tokens), "who watches the run sees what it has made"
    made = run.sounds()
    assert 1 <= len(made) < 10
    assert end_pause(run.store) is not None
    rest = run.run(lambda config: engines.ScriptedEngine(slots=1, make=make_noise))
    assert rest.progress.made == 10 - len(made)
    assert made.items() < run.sounds().items()
