"""The dispatcher's starts of actors: room, nodes that fail, wrong jobs, and what is left at the end."""

from dataclasses import replace

import pytest

from actors.actions import AssignAttempt, KillActor, StartActor
from actors.dispatcher import Dispatcher
from actors.messages import ActorsFailed
from musicgen.errors import JobError
from tests.actors.simulated_cluster import LIMITS, ROWS, count_rows


def test_waiting_for_room_is_no_failed_start():
    dispatcher = Dispatcher(range(1000), count_rows, replace(LIMITS, start_timeout_s=100.0), 1, 4)
    starts = dispatcher.decide(0)
    assert len(starts) == 4
    good = starts[0].actor
    dispatcher.on_started(good, "node", 0)
    dispatcher.on_ready(good, 10)
    for now in range(20, 20_000, 50):
        for action in dispatcher.decide(now):
            assert isinstance(action, AssignAttempt)
            dispatcher.on_finished(action.actor, action.attempt)
    dispatcher.on_died(good, "preempted", "the node was taken", 20_001)
    dispatcher.decide(20_002)  # three wait for room, and none has failed
    dispatcher.on_started(starts[1].actor, "node", 20_010)
    assert [type(action) for action in dispatcher.decide(20_100)] == []
    assert KillActor in [type(action) for action in dispatcher.decide(20_111)]  # its own clock has run since it began


def test_only_starts_that_fail_after_the_last_ready_actor_count():
    dispatcher = Dispatcher(range(100), count_rows, LIMITS, 1, 2)
    first, second = (action.actor for action in dispatcher.decide(0))
    dispatcher.on_ready(first, 0)
    now = 0.0
    for _ in range(10):  # the second one never starts, while the first one works
        dispatcher.on_died(second, "error", "no room for the model", now)
        now += 100
        (second,) = (action.actor for action in dispatcher.decide(now) if isinstance(action, StartActor))
    dispatcher.on_died(first, "preempted", "the node was taken", now)
    dispatcher.decide(now + 1)


def test_a_node_where_actors_fail_is_set_aside_and_does_not_decide_for_the_run():
    dispatcher = Dispatcher(range(300), count_rows, LIMITS, 2, 2)
    dispatcher.on_nodes(frozenset({"good", "bad"}))
    now, good, places = 0.0, None, []
    while not dispatcher.finished:
        now += 100
        for action in dispatcher.decide(now):
            if isinstance(action, StartActor):
                node = "bad" if good is not None and "bad" not in action.avoid else "good"
                good = action.actor if good is None else good
                places.append(node)
                dispatcher.on_started(action.actor, node, now)
                dispatcher.on_ready(action.actor, now)
            elif isinstance(action, AssignAttempt):
                if places[action.actor] == "bad":
                    dispatcher.on_died(action.actor, "crash", "CUDA error: illegal instruction", now)
                else:
                    dispatcher.on_finished(action.actor, action.attempt, ROWS)
    assert places.count("bad") <= 4
    assert dispatcher.machines.set_aside == {"bad": "CUDA error: illegal instruction"}
    assert dispatcher.shards_done == 300


def test_a_wrong_job_ends_the_run_when_three_nodes_say_so_and_a_wrong_node_does_not():
    error = JobError("the worker has another version")
    names = [f"node {i}" for i in range(10)]
    dispatcher = Dispatcher(range(300), count_rows, LIMITS, 10, 10)
    dispatcher.on_nodes(frozenset(names))
    starts = dispatcher.decide(0)
    for start, node in zip(starts, names, strict=True):
        dispatcher.on_started(start.actor, node, 1)
    dispatcher.on_died(starts[0].actor, "error", str(error), 2, error)
    (again,) = dispatcher.decide(10)
    assert again.avoid == {"node 0"}
    dispatcher.on_died(starts[1].actor, "error", str(error), 11, error)
    dispatcher.decide(12)
    dispatcher.on_died(starts[2].actor, "error", str(error), 12, error)
    with pytest.raises(JobError, match="another version"):
        dispatcher.decide(20)
    dispatcher.on_ready(starts[3].actor, 21)
    dispatcher.decide(22)


def test_the_only_node_decides_at_once():
    dispatcher = Dispatcher(range(3), count_rows, LIMITS, 2, 2)
    dispatcher.on_nodes(frozenset({"here"}))
    first, _second = dispatcher.decide(0)
    dispatcher.on_started(first.actor, "here", 0)
    dispatcher.on_died(first.actor, "error", "no such model", 1, JobError("no such model"))
    with pytest.raises(JobError):
        dispatcher.decide(1)


def test_given_up_shards_get_a_last_round():
    dispatcher = Dispatcher(range(3), count_rows, replace(LIMITS, storage_errors=1))
    (start,) = dispatcher.decide(0)
    dispatcher.on_ready(start.actor, 0)
    tried: list[int] = []
    for now in range(100):
        for action in dispatcher.decide(now):
            tried.append(action.attempt.shard)
            if action.attempt.shard == 1 and tried.count(1) == 1:
                dispatcher.on_failed(action.actor, action.attempt, "503", now)
            else:
                dispatcher.on_finished(action.actor, action.attempt)
    assert tried == [0, 1, 2, 1]
    assert dispatcher.finished
    assert not dispatcher.given_up


def test_a_disk_that_is_full_sets_its_node_aside():
    dispatcher = Dispatcher(range(10), count_rows, LIMITS, 2, 2)
    dispatcher.on_nodes(frozenset({"full", "roomy"}))
    first, second = (action.actor for action in dispatcher.decide(0))
    dispatcher.on_started(first, "full", 0)
    dispatcher.on_started(second, "roomy", 0)
    for actor in (first, second):
        dispatcher.on_ready(actor, 0)
    dispatcher.decide(1)
    dispatcher.on_node_fault(first, "no space on host full", 2)
    (start,) = (action for action in dispatcher.decide(3) if isinstance(action, StartActor))
    assert start.avoid == {"full"}
    with pytest.raises(ActorsFailed, match="no space on host roomy"):
        dispatcher.on_node_fault(second, "no space on host roomy", 4)


def test_shards_that_another_driver_makes_are_left_to_it_and_dropped_when_it_commits_them():
    dispatcher = Dispatcher(range(6), count_rows, LIMITS)
    dispatcher.queue.may_take = lambda shard: shard not in (0, 1)
    (start,) = dispatcher.decide(0)
    dispatcher.on_ready(start.actor, 0)
    taken = []
    for now in range(10):
        for action in dispatcher.decide(now):
            taken.append(action.attempt.shard)
            dispatcher.on_finished(action.actor, action.attempt)
    assert taken == [2, 3, 4, 5]
    assert not dispatcher.finished
    assert dispatcher.on_committed_elsewhere({0, 1, 3}) == [0, 1]
    assert dispatcher.finished
    assert dispatcher.shards_done == 6


def test_a_driver_whose_actors_find_no_room_leaves_the_shards_to_others():
    """Another driver's idle actors have the room, and wait for these shards."""
    dispatcher = Dispatcher(range(6), count_rows, LIMITS, 2, 2)
    assert dispatcher.may_claim(0), "an actor is started for a shard that is claimed"
    first = dispatcher.decide(0)[0]
    assert dispatcher.may_claim(5)
    assert not dispatcher.may_claim(20)
    dispatcher.on_started(first.actor, "node", 30)
    assert dispatcher.may_claim(40)
    dispatcher.on_ready(first.actor, 41)
    held = {action.attempt.shard for action in dispatcher.decide(41)}
    dispatcher.on_died(first.actor, "node", "its node is gone", 50)
    assert isinstance(dispatcher.decide(50)[0], StartActor)
    assert dispatcher.may_claim(55), "its successor may find room at once"
    assert not dispatcher.may_claim(70)
    assert held == set(dispatcher.queue.retried_shards)
    assert held == set(dispatcher.on_committed_elsewhere(held))
    assert not dispatcher.queue.retried_shards


def test_an_actor_that_runs_out_of_memory_with_its_slots_costs_its_shards_nothing():
    dispatcher = Dispatcher(range(4), count_rows, LIMITS)
    for turn in range(3 * LIMITS.losses):  # more often than any other loss would be forgiven
        (start, *_) = [action for action in dispatcher.decide(turn) if isinstance(action, StartActor)]
        dispatcher.on_started(start.actor, "node", turn)
        dispatcher.on_ready(start.actor, turn)
        assert [action.attempt.shard for action in dispatcher.decide(turn) if isinstance(action, AssignAttempt)]
        dispatcher.on_died(start.actor, "slots", "out of memory with 8 slots", turn)
    assert dispatcher.given_up == {}
    assert dispatcher.deaths.losses == 3 * LIMITS.losses
    assert not any(history.suspected for history in dispatcher.queue.histories.values())
    assert not dispatcher.machines.deaths
