"""The dispatcher's laws, over simulated clusters where anything may go wrong."""

import random
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.dispatcher import Assign, Dispatcher, Kill, Limits, Start, Stop
from actors.messages import ActorsFailed, Work

ROWS = 8


@dataclass
class Cluster:
    """Plays the pool and the actors: what an attempt comes to follows from `poison` and chance."""

    dispatcher: Dispatcher
    poison: set[tuple[int, int]]
    chance: random.Random
    p_crash: float = 0.0
    p_error: float = 0.0
    p_preempt: float = 0.0
    p_silent: float = 0.0
    now: float = 0.0
    starting: set[int] = field(default_factory=set)
    holding: dict[int, list[Work]] = field(default_factory=dict)
    silent: set[int] = field(default_factory=set)
    committed: dict[int, tuple] = field(default_factory=dict)
    most_held: int = 0
    most_actors: int = 0

    def poisonous(self, work: Work) -> bool:
        first, end = work.rows or (0, ROWS)
        skipped = {row.position for row in work.condemned}
        return any(shard == work.shard and first <= row < end and row not in skipped for shard, row in self.poison)

    def act(self) -> None:
        for action in self.dispatcher.decide(self.now):
            match action:
                case Start(actor):
                    self.starting.add(actor)
                case Assign(actor, work):
                    assert actor in self.holding, "work was given to an actor that is not ready"
                    self.holding[actor].append(work)
                    suspects = [
                        w
                        for w in self.holding[actor]
                        if self.dispatcher._cases.get(w.shard) and self.dispatcher._cases[w.shard].crashes
                    ]
                    assert not suspects or len(self.holding[actor]) == 1, "a suspect is not alone"
                case Kill(actor) | Stop(actor):
                    self.starting.discard(actor)
                    self.holding.pop(actor, None)
                    self.silent.discard(actor)
        held = [work.shard for works in self.holding.values() for work in works]
        assert len(held) == len(set(held)), "a shard is in two hands"
        self.most_held = max([self.most_held, *map(len, self.holding.values())])
        self.most_actors = max(self.most_actors, len(self.holding) + len(self.starting))

    def happen(self) -> None:
        self.now += 0.5
        for actor in list(self.holding):
            if actor not in self.silent:
                self.dispatcher.heard(actor, self.now)
        if self.starting and (not any(self.holding.values()) or self.chance.random() < 0.5):
            actor = self.starting.pop()
            if self.chance.random() < self.p_crash:
                self.dispatcher.died(actor, "crash", "no luck", self.now)
            else:
                self.holding[actor] = []
                self.dispatcher.ready(actor, self.now)
            return
        busy = [actor for actor, works in self.holding.items() if works and actor not in self.silent]
        if not busy:
            return
        actor = self.chance.choice(busy)
        work = self.holding[actor][0]
        roll = self.chance.random()
        if self.poisonous(work) or roll < self.p_crash:
            del self.holding[actor]
            self.dispatcher.died(actor, "crash", "signal 6", self.now)
        elif roll < self.p_crash + self.p_preempt:
            del self.holding[actor]
            self.dispatcher.died(actor, "preempted", "the node was taken", self.now)
        elif roll < self.p_crash + self.p_preempt + self.p_silent:
            self.silent.add(actor)
        elif roll < self.p_crash + self.p_preempt + self.p_silent + self.p_error:
            self.holding[actor].remove(work)
            self.dispatcher.failed(actor, work, "503 slow down", self.now)
        else:
            self.holding[actor].remove(work)
            if self.dispatcher.finish(actor, work, self.now):
                assert work.shard not in self.committed, "a shard was settled twice"
                assert not work.trial
                self.committed[work.shard] = tuple(sorted(row.position for row in work.condemned))

    def run(self, limit: int = 200_000) -> None:
        for _ in range(limit):
            self.act()
            if self.dispatcher.finished:
                return
            self.happen()
        pytest.fail("the dispatcher does not come to an end")


@settings(max_examples=120, deadline=None)
@given(
    shards=st.integers(0, 30),
    actors=st.tuples(st.integers(1, 4), st.integers(0, 3)),
    poison=st.sets(st.tuples(st.integers(0, 29), st.integers(0, ROWS - 1)), max_size=6),
    seed=st.integers(0, 2**32),
)
def test_every_poisonous_row_is_found_and_every_shard_is_settled_once(shards, actors, poison, seed):
    low, more = actors
    poison = {(shard, row) for shard, row in poison if shard < shards}
    dispatcher = Dispatcher(range(shards), lambda shard: ROWS, low, low + more)
    cluster = Cluster(dispatcher, poison, random.Random(seed), p_error=0.02, p_preempt=0.05)
    cluster.run()
    assert set(cluster.committed) == set(range(shards))
    assert dispatcher.done == shards
    assert {(shard, row) for shard, rows in cluster.committed.items() for row in rows} == poison
    assert cluster.most_held <= 2
    assert cluster.most_actors <= low + more


@settings(max_examples=80, deadline=None)
@given(seed=st.integers(0, 2**32), shards=st.integers(1, 20), actors=st.integers(1, 3))
def test_on_a_bad_day_it_ends_and_accounts_for_every_shard(seed, shards, actors):
    limits = Limits(init_failures=50, given_up=1000)
    dispatcher = Dispatcher(range(shards), lambda shard: ROWS, actors, actors, limits)
    cluster = Cluster(dispatcher, set(), random.Random(seed), p_crash=0.1, p_error=0.1, p_preempt=0.1, p_silent=0.05)
    cluster.run()
    assert set(cluster.committed) | set(dispatcher.given_up) == set(range(shards))
    assert not set(cluster.committed) & set(dispatcher.given_up)


def test_preemptions_are_free():
    dispatcher = Dispatcher(range(3), lambda shard: ROWS)
    now = 0.0
    for _ in range(200):
        now += 100
        (start,) = [action for action in dispatcher.decide(now) if isinstance(action, Start)]
        dispatcher.ready(start.actor, now)
        assert [action.work.rows for action in dispatcher.decide(now) if isinstance(action, Assign)] == [None, None]
        dispatcher.died(start.actor, "preempted", "spot", now)
    assert dispatcher.preemptions == 200
    assert not dispatcher.given_up


def test_actors_that_never_start_end_the_run_with_the_first_reason():
    dispatcher = Dispatcher(range(3), lambda shard: ROWS)
    for now in (100, 200, 300):
        (start,) = dispatcher.decide(now)
        dispatcher.died(start.actor, "crash", f"no such checkpoint {now}", now)
    with pytest.raises(ActorsFailed, match=r"3 attempts.*no such checkpoint 100"):
        dispatcher.decide(400)


def test_one_broken_node_does_not_end_a_run_that_has_an_actor():
    dispatcher = Dispatcher(range(50), lambda shard: ROWS, 2, 2)
    first, second = dispatcher.decide(0)
    dispatcher.ready(first.actor, 0)
    dispatcher.died(second.actor, "crash", "no GPU", 0)
    now = 0.0
    for _ in range(100):
        now += 50
        dispatcher.heard(first.actor, now)
        for action in dispatcher.decide(now):
            if isinstance(action, Start):
                dispatcher.died(action.actor, "crash", "no GPU", now)
            elif isinstance(action, Assign):
                dispatcher.finish(action.actor, action.work, now)
    assert dispatcher.done == 50


@pytest.mark.parametrize("stalled_s", [None, 1000.0])
def test_a_silent_or_stalled_actor_is_killed_and_its_late_word_does_not_count(stalled_s):
    dispatcher = Dispatcher(range(2), lambda shard: ROWS)
    (start,) = dispatcher.decide(0)
    dispatcher.ready(start.actor, 0)
    works = [action.work for action in dispatcher.decide(0)]
    assert [work.shard for work in works] == [0, 1]
    assert dispatcher.decide(59) == []
    if stalled_s is not None:
        dispatcher.heard(start.actor, 60, stalled_s=stalled_s)
    actions = dispatcher.decide(61)
    assert [type(action) for action in actions] == [Kill, Start]
    assert actions[0].actor == start.actor
    assert not dispatcher.finish(start.actor, works[0], 62)
    assert dispatcher.done == 0
    dispatcher.ready(actions[1].actor, 62)
    (again,) = dispatcher.decide(62)
    assert again.work == Work(0, attempt=1)  # alone: the shard is under suspicion now


def test_a_shard_that_crashes_only_as_a_whole_is_given_up_and_the_others_are_made():
    dispatcher = Dispatcher(range(4), lambda shard: ROWS)
    cluster = Cluster(dispatcher, set(), random.Random(0))
    cluster.poisonous = lambda work: work.shard == 2 and work.rows is None
    cluster.run()
    assert set(cluster.committed) == {0, 1, 3}
    assert "none of its rows does so alone" in dispatcher.given_up[2]


def test_storage_faults_shard_after_shard_end_the_run():
    dispatcher = Dispatcher(range(100), lambda shard: ROWS, limits=Limits(errors=1, given_up=3))
    (start,) = dispatcher.decide(0)
    dispatcher.ready(start.actor, 0)
    for now in (0, 1):
        for action in dispatcher.decide(now):
            dispatcher.failed(action.actor, action.work, "the bucket is gone", now)
    with pytest.raises(ActorsFailed, match=r"shards failed.*the bucket is gone"):
        dispatcher.decide(2)


def test_an_elastic_pool_grows_while_there_is_work_and_lets_idle_actors_go():
    dispatcher = Dispatcher(range(20), lambda shard: ROWS, 1, 3)
    held, stopped, most = {}, 0, 0
    for now in range(1000):
        for action in dispatcher.decide(now):
            match action:
                case Start(actor):
                    held[actor] = []
                    dispatcher.ready(actor, now)
                case Assign(actor, work):
                    held[actor].append(work)
                case Stop(actor):
                    assert not held.pop(actor)
                    stopped += 1
        most = max(most, len(held))
        if dispatcher.finished:
            break
        for actor, works in held.items():
            if works and now % (actor + 2) == 0:
                dispatcher.finish(actor, works.pop(0), now)
    assert dispatcher.done == 20
    assert (most, stopped) == (3, 2)
