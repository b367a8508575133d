"""The dispatcher's laws, over simulated clusters where anything may go wrong."""

import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.actions import AssignAttempt, KillActor, StartActor, StopActor
from actors.dispatcher import Dispatcher
from actors.messages import ActorsFailed, Heartbeat
from tests.actors.simulated_cluster import LIMITS, ROWS, SimulatedCluster, count_rows


@settings(max_examples=120)
@given(
    shards=st.integers(0, 30),
    actors=st.tuples(st.integers(1, 4), st.integers(0, 3)),
    poison=st.sets(st.tuples(st.integers(0, 29), st.integers(0, ROWS - 1)), max_size=6),
    seed=st.integers(0, 2**32),
)
def test_every_poisonous_row_is_found_and_every_shard_is_settled_once(shards, actors, poison, seed):
    min_actors, extra_actors = actors
    poison = {(shard, row) for shard, row in poison if shard < shards}
    dispatcher = Dispatcher(range(shards), count_rows, LIMITS, min_actors, min_actors + extra_actors)
    cluster = SimulatedCluster(dispatcher, poison, random.Random(seed), error_rate=0.02, preemption_rate=0.05)
    try:
        cluster.run()
    except ActorsFailed:  # the first rows tried were all poison, so no machine was known to be sound
        assert not cluster.condemned
        assert len(poison) >= 3
        return
    assert set(cluster.committed) == set(range(shards))
    assert dispatcher.shards_done == shards
    assert cluster.condemned == poison
    assert cluster.max_held <= 2
    assert cluster.max_actors_seen <= min_actors + extra_actors


@settings(max_examples=80)
@given(seed=st.integers(0, 2**32), shards=st.integers(1, 20), actors=st.integers(1, 3))
def test_on_a_bad_day_it_ends_and_accounts_for_every_shard(seed, shards, actors):
    limits = replace(LIMITS, failed_starts=50, deaths=50, given_up_shards=1000)
    dispatcher = Dispatcher(range(shards), count_rows, limits, actors, actors)
    cluster = SimulatedCluster(
        dispatcher, set(), random.Random(seed), crash_rate=0.1, error_rate=0.1, preemption_rate=0.1, silence_rate=0.05
    )
    cluster.run()
    assert set(cluster.committed) | set(dispatcher.given_up) == set(range(shards))
    assert not set(cluster.committed) & set(dispatcher.given_up)


def test_preemptions_are_free():
    dispatcher = Dispatcher(range(3), count_rows, LIMITS)
    now = 0.0
    for _ in range(200):
        now += 100
        (start,) = [action for action in dispatcher.decide(now) if isinstance(action, StartActor)]
        dispatcher.on_ready(start.actor, now)
        assigned = [action.attempt for action in dispatcher.decide(now) if isinstance(action, AssignAttempt)]
        assert [attempt.row_range for attempt in assigned] == [None, None]
        dispatcher.on_died(start.actor, "preempted", "spot", now)
    assert dispatcher.deaths.preemptions == 200
    assert not dispatcher.given_up


def test_actors_that_never_start_end_the_run_with_the_first_reason():
    dispatcher = Dispatcher(range(3), count_rows, LIMITS)
    for now in (100, 200, 300):
        (start,) = dispatcher.decide(now)
        dispatcher.on_died(start.actor, "crash", f"no such checkpoint {now}", now)
    with pytest.raises(ActorsFailed, match=r"3 attempts.*no such checkpoint 100"):
        dispatcher.decide(400)


def test_one_broken_node_does_not_end_a_run_that_has_an_actor():
    dispatcher = Dispatcher(range(50), count_rows, LIMITS, 2, 2)
    first, second = dispatcher.decide(0)
    dispatcher.on_ready(first.actor, 0)
    dispatcher.on_died(second.actor, "crash", "no GPU", 0)
    now = 0.0
    for _ in range(100):
        now += 50
        dispatcher.on_heartbeat(first.actor, Heartbeat())
        for action in dispatcher.decide(now):
            if isinstance(action, StartActor):
                dispatcher.on_died(action.actor, "crash", "no GPU", now)
            elif isinstance(action, AssignAttempt):
                dispatcher.on_finished(action.actor, action.attempt)
    assert dispatcher.shards_done == 50


@pytest.mark.parametrize("stalled_s", [None, 1000.0])
def test_a_silent_or_stalled_actor_is_killed_and_its_late_report_does_not_count(stalled_s):
    dispatcher = Dispatcher(range(2), count_rows, LIMITS)
    (start,) = dispatcher.decide(0)
    dispatcher.on_ready(start.actor, 0)
    attempts = [action.attempt for action in dispatcher.decide(0)]
    assert [attempt.shard for attempt in attempts] == [0, 1]
    dispatcher.on_heartbeat_asked(start.actor, 0)
    assert dispatcher.decide(59) == []
    if stalled_s is not None:
        dispatcher.on_heartbeat(start.actor, Heartbeat(stalled_s=stalled_s))
    (killed,) = dispatcher.decide(61)
    assert isinstance(killed, KillActor)
    actions = [killed, *dispatcher.decide(63)]
    assert [type(action) for action in actions] == [KillActor, StartActor]
    assert actions[0].actor == start.actor
    assert not dispatcher.on_finished(start.actor, attempts[0])
    assert dispatcher.shards_done == 0
    dispatcher.on_ready(actions[1].actor, 64)
    (control,) = dispatcher.decide(64)  # nobody has made a clip yet, so the machine may be at fault
    assert control.attempt.row_range is not None
    dispatcher.on_finished(control.actor, control.attempt)
    assert {action.attempt.shard for action in dispatcher.decide(65)} == {0, 1}  # the loss counts against no shard


def test_a_shard_that_crashes_only_as_a_whole_is_given_up_and_the_others_are_made():
    dispatcher = Dispatcher(range(4), count_rows, LIMITS)
    cluster = SimulatedCluster(dispatcher, set(), random.Random(0))
    cluster.is_poisonous = lambda attempt: attempt.shard == 2 and attempt.row_range is None
    cluster.run()
    assert set(cluster.committed) == {0, 1, 3}
    assert "none of its rows does so alone" in dispatcher.given_up[2]


def test_storage_faults_shard_after_shard_end_the_run():
    dispatcher = Dispatcher(range(100), count_rows, limits=replace(LIMITS, storage_errors=1, given_up_shards=3))
    (start,) = dispatcher.decide(0)
    dispatcher.on_ready(start.actor, 0)
    for now in (0, 1):
        for action in dispatcher.decide(now):
            dispatcher.on_failed(action.actor, action.attempt, "the bucket is gone", now)
    with pytest.raises(ActorsFailed, match=r"shards failed.*the bucket is gone"):
        dispatcher.decide(2)


def test_an_elastic_pool_grows_while_there_is_work_and_lets_idle_actors_go():
    dispatcher = Dispatcher(range(20), count_rows, LIMITS, 1, 3)
    held, stopped, max_held = {}, 0, 0
    for now in range(1000):
        for action in dispatcher.decide(now):
            match action:
                case StartActor(actor):
                    held[actor] = []
                    dispatcher.on_ready(actor, now)
                case AssignAttempt(actor, attempt):
                    held[actor].append(attempt)
                case StopActor(actor):
                    assert not held.pop(actor)
                    stopped += 1
        max_held = max(max_held, len(held))
        if dispatcher.finished:
            break
        for actor, attempts in held.items():
            if attempts and now % (actor + 2) == 0:
                dispatcher.on_finished(actor, attempts.pop(0))
    assert dispatcher.shards_done == 20
    assert (max_held, stopped) == (3, 2)
