"""Whom the dispatcher holds a death against: a row, or the machines."""

import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.actions import StartActor
from actors.dispatcher import Dispatcher
from actors.messages import ActorsFailed, Heartbeat, ShardAttempt
from tests.actors.simulated_cluster import LIMITS, ROWS, SimulatedCluster, count_rows


@settings(max_examples=200)
@given(
    shards=st.integers(2, 20),
    actors=st.integers(1, 4),
    nodes=st.integers(1, 3),
    poison=st.sets(st.tuples(st.integers(1, 19), st.integers(0, ROWS - 1)), max_size=5),
    kills=st.integers(0, 3),
    seed=st.integers(0, 2**32),
)
def test_no_death_of_a_machine_condemns_a_row(shards, actors, nodes, poison, kills, seed):
    poison = {(shard, row) for shard, row in poison if shard < shards}
    dispatcher = Dispatcher(range(shards), count_rows, replace(LIMITS, deaths=10), actors, actors)
    cluster = SimulatedCluster(
        dispatcher,
        poison,
        random.Random(seed),
        preemption_rate=0.05,
        node_loss_rate=0.1,
        silence_rate=0.05,
        kills=kills,
        kill_rate=0.3,
        nodes=tuple(f"node {i}" for i in range(nodes)),
    )
    cluster.run()
    assert cluster.condemned == poison
    assert set(cluster.committed) | set(dispatcher.given_up) == set(range(shards))
    assert not dispatcher.given_up


@pytest.mark.parametrize("nodes", [("a",), ("a", "b")])
@pytest.mark.parametrize("actors", [1, 4])
def test_a_poison_row_costs_a_bounded_number_of_deaths(nodes, actors):
    for seed in range(30):
        dispatcher = Dispatcher(range(12), count_rows, LIMITS, actors, actors)
        cluster = SimulatedCluster(dispatcher, {(5, seed % ROWS)}, random.Random(seed), nodes=nodes)
        cluster.run()
        assert cluster.condemned == {(5, seed % ROWS)}
        assert not dispatcher.given_up
        assert cluster.deaths <= 2 + 3 + 6  # whole, by halves, and alone: two on each node, and after each a fresh one


@pytest.mark.parametrize("nodes", [("a",), ("a", "b")])
@pytest.mark.parametrize("actors", [1, 2])
@pytest.mark.parametrize(("shards", "rows"), [(1, 1), (2, 1), (1, 3), (3, 1)])
def test_the_last_rows_of_a_run_are_condemned_although_no_other_row_is_left_to_compare_with(
    shards, rows, actors, nodes
):
    for seed in range(10):
        dispatcher = Dispatcher(range(shards), lambda shard: rows, LIMITS, actors, actors)
        poison = {(shard, row) for shard in range(shards) for row in range(rows)}
        cluster = SimulatedCluster(dispatcher, poison, random.Random(seed), nodes=nodes, rows=rows)
        cluster.run()
        assert cluster.condemned == poison
        assert not dispatcher.given_up


def test_one_row_is_not_condemned_where_no_process_lives():
    dispatcher = Dispatcher(range(1), lambda shard: 1, LIMITS)
    cluster = SimulatedCluster(dispatcher, set(), random.Random(0), rows=1)
    cluster.is_poisonous = lambda attempt: True
    with pytest.raises(ActorsFailed, match="3 actors ended one after another without having made a clip"):
        cluster.run()
    assert not cluster.condemned


@pytest.mark.parametrize("nodes", [("a",), ("a", "b")])
@pytest.mark.parametrize("actors", [1, 3])
@pytest.mark.parametrize("cause", ["crash", "engine", "memory"])
def test_machines_that_end_every_process_end_the_run_and_condemn_nothing(nodes, actors, cause):
    dispatcher = Dispatcher(range(20), count_rows, LIMITS, actors, actors)
    dispatcher.on_nodes(frozenset(nodes))
    deaths = 0

    def end_every_process() -> None:
        nonlocal deaths
        for turn in range(1, 100):
            for action in dispatcher.decide(100 * turn):
                if isinstance(action, StartActor):
                    dispatcher.on_started(action.actor, nodes[action.actor % len(nodes)], 100 * turn)
                    dispatcher.on_ready(action.actor, 100 * turn)
                else:
                    deaths += action.actor in dispatcher.actors
                    dispatcher.on_died(action.actor, cause, "signal 11", 100 * turn)

    with pytest.raises(ActorsFailed, match=r"\d actors ended one after another without having made a clip.*signal 11"):
        end_every_process()
    assert deaths <= 3 * actors
    assert not any(history.poison_rows for history in dispatcher.queue.histories.values())


@pytest.mark.parametrize("row_s", [0.3, 0.7, 1.5, 1.9])
def test_somebody_who_kills_each_actor_two_seconds_after_it_was_ready_condemns_no_row(row_s):
    """Each process ends at the same age, five times. While no clip is made before, the run ends after three."""
    dispatcher = Dispatcher(range(60), lambda shard: 2, replace(LIMITS, attempts_per_actor=1))
    now, kills, ready_at, shards, settled = 0.0, 0, 0.0, [], []
    held: list[ShardAttempt] = []
    actor = -1
    while not dispatcher.finished:
        for action in dispatcher.decide(now):
            if isinstance(action, StartActor):
                actor, ready_at = action.actor, now + 5
                now = ready_at
                dispatcher.on_ready(actor, now)
            else:
                held.append(action.attempt)
        if not held:
            now += 0.1
            continue
        attempt = held.pop()
        shards.append(attempt.shard)
        first, end = attempt.row_range or (0, 2)
        for _row in range(first, end):
            now += row_s
            if now - ready_at > 2 and kills < 5:
                kills += 1
                now = ready_at + 2
                dispatcher.on_died(actor, "crash", "signal 9", now)
                break
            dispatcher.on_heartbeat(actor, Heartbeat(clips=dispatcher.actors[actor].clips + 1))
        else:
            made = end - first - len(attempt.poison_rows)
            settled += [made] if dispatcher.on_finished(actor, attempt, made) else []
    assert kills == 5
    assert settled == [2] * 60
