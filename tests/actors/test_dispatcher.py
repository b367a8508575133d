"""The dispatcher's laws, over simulated clusters where anything may go wrong."""

import random
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.actions import AssignAttempt, KillActor, StartActor, StopActor
from actors.dispatcher import Dispatcher
from actors.fault_limits import FaultLimits
from actors.messages import ActorsFailed, Heartbeat, ShardAttempt
from musicgen.errors import JobError

ROWS = 8
LIMITS = FaultLimits(storage_errors=4, start_timeout_s=3600.0, heartbeat_timeout_s=60.0)


def count_rows(shard: int) -> int:
    """Every shard has as many rows."""
    return ROWS


@dataclass
class SimulatedCluster:
    """Stands for the pool and its actors. How an attempt ends depends on `poison`, (shard, row), and on chance."""

    dispatcher: Dispatcher
    poison: set[tuple[int, int]]
    chance: random.Random
    crash_rate: float = 0.0
    error_rate: float = 0.0
    preemption_rate: float = 0.0
    node_loss_rate: float = 0.0  # of actors that are lost with their node
    silence_rate: float = 0.0
    pause_rate: float = 0.0  # of turns in which the driver stands still for a long time
    kills: int = 0  # processes that somebody ends, which look like crashes
    kill_rate: float = 0.0
    nodes: tuple[str, ...] = ("node",)
    now: float = 0.0
    starting: set[int] = field(default_factory=set)
    holding: dict[int, list[ShardAttempt]] = field(default_factory=dict)
    node_of: dict[int, str] = field(default_factory=dict)
    silent: set[int] = field(default_factory=set)
    committed: dict[int, tuple] = field(default_factory=dict)
    deaths: int = 0
    max_held: int = 0
    max_actors_seen: int = 0
    rows: int = ROWS  # of each shard

    def poison_in(self, attempt: ShardAttempt) -> list[int]:
        if attempt.harmless:
            return []
        first, end = attempt.row_range or (0, self.rows)
        skipped = {row.position for row in attempt.poison_rows}
        return [row for row in range(first, end) if (attempt.shard, row) in self.poison and row not in skipped]

    def is_poisonous(self, attempt: ShardAttempt) -> bool:
        return bool(self.poison_in(attempt))

    def carry_out_actions(self) -> None:
        for action in self.dispatcher.decide(self.now):
            match action:
                case StartActor(actor):
                    self.starting.add(actor)
                case AssignAttempt(actor, attempt):
                    assert actor in self.holding, "an attempt was given to an actor that is not ready"
                    self.holding[actor].append(attempt)
                    histories = self.dispatcher.queue.histories
                    suspects = [
                        held
                        for held in self.holding[actor]
                        if held.shard in histories and histories[held.shard].crashes
                    ]
                    assert not suspects or len(self.holding[actor]) == 1, "a suspect is not alone"
                case KillActor(actor) | StopActor(actor):
                    self.starting.discard(actor)
                    self.holding.pop(actor, None)
                    self.silent.discard(actor)
        held = self.dispatcher.held_shards
        assert len(held) == len(set(held)), "two actors hold one shard"
        self.max_held = max([self.max_held, *map(len, self.holding.values())])
        self.max_actors_seen = max(self.max_actors_seen, len(self.holding) + len(self.starting))

    def next_event(self) -> None:
        self.now += 0.5
        self.answer_heartbeats()
        if self.starting and (not any(self.holding.values()) or self.chance.random() < 0.5):
            self.start(self.starting.pop())
            return
        busy = [actor for actor, attempts in self.holding.items() if attempts and actor not in self.silent]
        if busy:
            actor = self.chance.choice(busy)
            self.end_attempt(actor, self.holding[actor][0])

    def answer_heartbeats(self) -> None:
        for actor in list(self.holding):
            self.dispatcher.on_heartbeat_asked(actor, self.now)
            if actor not in self.silent:
                self.dispatcher.on_heartbeat(actor, Heartbeat())

    def start(self, actor: int) -> None:
        self.node_of[actor] = self.chance.choice(self.nodes)
        self.dispatcher.on_started(actor, self.node_of[actor], self.now)
        if self.chance.random() < self.crash_rate:
            self.dispatcher.on_died(actor, "crash", "no luck", self.now)
        else:
            self.holding[actor] = []
            self.dispatcher.on_ready(actor, self.now)

    def end_attempt(self, actor: int, attempt: ShardAttempt) -> None:
        roll = self.chance.random()
        poison = self.poison_in(attempt) if self.is_poisonous(attempt) else []
        if self.kills and self.chance.random() < self.kill_rate:
            self.kills -= 1
            self.lose(actor, "crash", "signal 9")
        elif self.is_poisonous(attempt) or roll < self.crash_rate:
            if poison and poison[0] > (attempt.row_range or (0, 0))[0] and self.chance.random() < 0.5:
                self.dispatcher.on_heartbeat(actor, Heartbeat(clips=1000))  # the rows before it were made, and seen
            self.lose(actor, "crash", "signal 6")
        elif (roll := roll - self.crash_rate) < self.preemption_rate:
            self.lose(actor, "preempted", "the node was taken")
        elif (roll := roll - self.preemption_rate) < self.node_loss_rate:
            self.lose(actor, "node", "the node is gone")
        elif (roll := roll - self.node_loss_rate) < self.silence_rate:
            self.silent.add(actor)
        elif (roll := roll - self.silence_rate) < self.error_rate:
            self.holding[actor].remove(attempt)
            self.dispatcher.on_failed(actor, attempt, "503 slow down", self.now)
        else:
            self.holding[actor].remove(attempt)
            first, end = attempt.row_range or (0, self.rows)
            if self.dispatcher.on_finished(actor, attempt, end - first - len(attempt.poison_rows)):
                assert attempt.shard not in self.committed, "a shard was settled twice"
                assert not attempt.is_trial
                self.committed[attempt.shard] = tuple(sorted(row.position for row in attempt.poison_rows))

    def lose(self, actor: int, cause: str, reason: str) -> None:
        self.deaths += 1
        del self.holding[actor]
        self.dispatcher.on_died(actor, cause, reason, self.now)

    def run(self, max_events: int = 200_000) -> None:
        for _ in range(max_events):
            self.carry_out_actions()
            if self.dispatcher.finished:
                return
            self.next_event()
        pytest.fail("the dispatcher does not come to an end")

    @property
    def condemned(self) -> set[tuple[int, int]]:
        return {(shard, row) for shard, rows in self.committed.items() for row in rows}


@settings(max_examples=120, deadline=None)
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


@settings(max_examples=80, deadline=None)
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


@settings(max_examples=200, deadline=None)
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
