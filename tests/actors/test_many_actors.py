"""What the driver's loop costs: processor time with many actors, and memory with many rows. No actor is real."""

import itertools
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from actors import pool_loop
from actors.actor_config import make_actor_config
from actors.actor_measures import ActorMeasures
from actors.actor_replies import PendingCall
from actors.fault_limits import make_fault_limits
from actors.in_process_actors import OneProcessWatch
from actors.messages import Heartbeat, LoadedActor, ShardAttempt, ShardReport, StartedActor
from actors.pool_loop import PoolLoop
from actors.run_clock import RunClock
from musicgen.job import Job
from musicgen.plan import Plan
from musicgen.run_plan import PlanPart
from musicgen.shard import PlannedModel
from musicgen.storage import open_store
from tests.actors.in_process import CLUSTER

SHARD_ROWS, TURN_S = 10, 0.25
MEASURES = ActorMeasures(8, 6, 3, 1 << 30, 500, 20.0, 40, 2.0)


class PromptActors:
    """Actors that answer every call in the next turn, and make a shard in so many turns."""

    def __init__(self, turns_per_shard: int):
        self.turns_per_shard = turns_per_shard
        self.turn = 0
        self.replies: deque[tuple[PendingCall, object]] = deque()
        self.due: deque[tuple[int, PendingCall]] = deque()

    def start(self, actor: int, avoid: frozenset[str]) -> None:
        loaded = LoadedActor(f"host-{actor}", 100 + actor, '{"device":"cuda"}', 8, 1.0)
        self.replies.append((PendingCall("report_start", actor), StartedActor("node", f"host-{actor}", 100 + actor)))
        self.replies.append((PendingCall("load_model", actor), loaded))

    def assign(self, actor: int, attempt: ShardAttempt) -> None:
        self.due.append((self.turn + self.turns_per_shard, PendingCall("make_shard", actor, attempt)))

    def ask_heartbeat(self, actor: int) -> None:
        self.replies.append((PendingCall("heartbeat", actor), Heartbeat(3, 30.0, clips=5, measures=MEASURES)))

    def end(self, actor: int) -> None:
        pass

    def end_all(self, commit_wait_s: float) -> None:
        pass

    def collect_replies(self, timeout_s: float) -> Iterator[tuple[PendingCall, object]]:
        self.turn += 1
        while self.replies:
            yield self.replies.popleft()
        while self.due and self.due[0][0] <= self.turn:
            _, call = self.due.popleft()
            assert call.attempt is not None
            yield call, ShardReport(call.attempt, True, SHARD_ROWS, 0, 100.0, measures=MEASURES)


def begin_run(folder: Path, monkeypatch: pytest.MonkeyPatch, rows: int, actors: int, turns_per_shard: int) -> PoolLoop:
    """A loop over so many rows in small shards, whose clock goes on by `TURN_S` a turn."""
    job = Job.load(None, [f"cluster.actors={actors}"], manifest="a.csv", output=str(folder))
    shards = rows // SHARD_ROWS
    part = PlanPart("part", (SHARD_ROWS,) * shards, tuple(100.0 + shard / 1000 for shard in range(shards)))
    plan = Plan(
        "r0-1",
        1,
        {},
        PlannedModel("embedded", None, "0" * 64, 50.0),
        8,
        "",
        (part,),
        rows,
        100.0 * shards,
        10.0,
        0,
    )
    group = PromptActors(turns_per_shard)
    monkeypatch.setattr(pool_loop, "make_actors", lambda *_: (group, OneProcessWatch()))
    monkeypatch.setattr(pool_loop.time, "sleep", lambda _: None)
    store = open_store(str(folder))
    config = make_actor_config(job, plan, CLUSTER)
    loop = PoolLoop(
        job, plan, store, CLUSTER, config, lambda _: pytest.fail("no engine"), make_fault_limits(job.cluster)
    )
    ticks = itertools.count()
    loop._clock = RunClock(lambda: next(ticks) * TURN_S)
    loop.start(plan.shards, rows)
    return loop


@pytest.mark.slow
def test_five_hundred_actors_take_less_than_a_twentieth_of_a_core(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = begin_run(tmp_path, monkeypatch, rows=200_000, actors=500, turns_per_shard=240)
    for _ in range(20):  # all of them start at once, which happens once
        loop.turn()
    turns, started = 400, time.thread_time()
    for _ in range(turns):
        loop.turn()
    share = (time.thread_time() - started) / (turns * TURN_S)
    loop.close(interrupted=True)
    print(f"{share:.1%} of a core")
    assert loop.progress.made > 5_000
    assert share < 0.05


@pytest.mark.slow
def test_the_drivers_memory_does_not_grow_with_the_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    peaks = []
    for rows in (10_000, 1_000_000):
        with monkeypatch.context() as context:
            loop = begin_run(tmp_path / str(rows), context, rows, actors=64, turns_per_shard=1)
            peak, process = 0, psutil.Process()
            for turn in itertools.count():
                if turn % 16 == 0:
                    peak = max(peak, process.memory_info().rss)
                if loop.finished:
                    break
                loop.turn()
            loop.close(interrupted=False)
            assert loop.progress.made == rows
            peaks.append(peak >> 20)
            print(f"{rows:,} rows: {peak >> 20} MB")
    assert peaks[1] - peaks[0] < 50, peaks
