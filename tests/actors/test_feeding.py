"""Default jobs keep every slot busy: an actor has more rows in its hands than slots, while rows are left."""

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from itertools import product

import pyarrow as pa
import pytest

from actors.actions import AssignAttempt, StartActor
from actors.dispatcher import Dispatcher
from actors.fault_limits import make_fault_limits
from actors.feeding import MOST_AUTO_SLOTS, count_attempts, count_wanted_rows, count_writers
from actors.messages import Heartbeat, ShardAttempt
from musicgen.cluster_settings import ClusterSettings
from musicgen.engine import memory
from musicgen.families.audioldm2.checkpoint_sizes import AudioLdm2Spec
from musicgen.job import Job
from musicgen.plan import Plan
from musicgen.plan.expected_actors import ExpectedActors
from musicgen.plan.shards import choose_limits, cut_tables
from musicgen.presets import Preset, all_presets
from musicgen.run_plan import PlanPart
from musicgen.shard import PlannedModel
from tests.fixtures.planning import SMALL

JOB = Job.load(None, [], manifest="a.csv", output="out")
ACTORS = (1, 2, 3, 8, 17, 64)
SIZES = {"small": (24, 1024, 16), "medium": (48, 1536, 24), "large": (48, 2048, 32)}  # layers, hidden, heads


def spec_of(preset: Preset):
    """The sizes that decide how a preset's shards are cut."""
    if preset.family == "audioldm2":
        return AudioLdm2Spec(preset.sample_rate, preset.frame_rate, 3000, 8, 64, 4)
    parameters = preset.parameters or 0
    size = "small" if parameters < 1e9 else "medium" if parameters < 2e9 else "large"
    layers, hidden, heads = SIZES[size]
    return replace(SMALL, layers=layers, hidden=hidden, heads=heads, ffn=4 * hidden, channels=preset.channels)


def cut(spec, actors: ExpectedActors, durations_s: Sequence[float]) -> list[int]:
    """The rows of each shard, by the planner's own rule."""
    limits = choose_limits(JOB, spec, actors, len(durations_s), sum(durations_s))
    return [len(shard) for shard in cut_tables([pa.table({"duration_s": durations_s})], limits)]


def plan_of(shards: list[int]) -> Plan:
    part = PlanPart("part", tuple(shards), tuple(float(rows) for rows in shards))
    model = PlannedModel("embedded", None, "0" * 64, 50.0, "musicgen")
    return Plan("r0-1", 1, {}, model, "auto", "", (part,), sum(shards), float(sum(shards)), 1.0, 0)


class Farm:
    """Actors that settle their rows in order, as the generation loop does."""

    def __init__(self, shards: list[int], actors: int, slots: int):
        plan = plan_of(shards)
        limits = replace(
            make_fault_limits(ClusterSettings()), attempts_per_actor=count_attempts(plan, "auto", on_gpu=slots > 32)
        )
        self.slots, self.held = slots, dict[int, list[ShardAttempt]]()
        self.dispatcher = Dispatcher(plan.shards, plan.shard_rows, limits, actors, actors)
        self.rows, self.settled = plan.shard_rows, dict[int, int]()
        self.max_held = 0

    def carry_out(self) -> None:
        for action in self.dispatcher.decide(0.0):
            match action:
                case StartActor(actor):
                    self.held[actor], self.settled[actor] = [], 0
                    self.dispatcher.on_started(actor, f"node {actor}", 0.0)
                    self.dispatcher.on_ready(actor, 0.0, self.slots)
                case AssignAttempt(actor, attempt):
                    self.held[actor].append(attempt)
                    self.max_held = max(self.max_held, len(self.held[actor]))

    def rows_in_hands(self, actor: int) -> int:
        return sum(self.rows(attempt.shard) for attempt in self.held[actor]) - self.settled[actor]

    def settle_first_shard(self, actor: int) -> None:
        """The actor has made all rows of its oldest shard: the driver has not heard of it yet."""
        self.settled[actor] = self.rows(self.held[actor][0].shard)

    def report_first_shard(self, actor: int) -> None:
        attempt = self.held[actor].pop(0)
        self.settled[actor] = 0
        self.dispatcher.on_finished(actor, attempt, self.rows(attempt.shard))

    def run(self) -> int:
        """Return the fewest rows that an actor ever had in its hands while untried shards were left."""
        fewest = 1 << 30
        self.carry_out()
        self.carry_out()
        while any(self.held.values()):
            for actor in [actor for actor, attempts in self.held.items() if attempts]:
                self.settle_first_shard(actor)
                if len(self.dispatcher.queue):
                    fewest = min(fewest, self.rows_in_hands(actor))
                self.report_first_shard(actor)
            self.carry_out()
        assert self.dispatcher.finished
        return fewest


@cache  # presets of one size are cut alike
def run_farm(shards: tuple[int, ...], actors: int, slots: int) -> tuple[int, int]:
    """The fewest rows that an actor had in its hands while rows were left, and the most attempts that one held."""
    farm = Farm(list(shards), actors, slots)
    return farm.run(), farm.max_held


@pytest.mark.parametrize("preset", all_presets(), ids=lambda preset: preset.name)
def test_while_rows_are_left_an_actor_has_at_least_as_many_in_its_hands_as_slots(preset: Preset) -> None:
    spec = spec_of(preset)
    for duration_s, actors, gpus in product((5.0, 10.0, 30.0), ACTORS, (1.0, 0.0)):
        for rows in (100, 5521):
            shards = cut(spec, ExpectedActors(actors, actors, gpus), [duration_s] * rows)
            slots = 1 if preset.family == "audioldm2" else 128 if gpus else 32
            fewest, most_attempts = run_farm(tuple(shards), actors, slots)
            assert fewest >= slots, (duration_s, actors, gpus, rows)
            assert most_attempts <= 40


def test_the_first_rows_are_spread_over_all_actors() -> None:
    farm = Farm(cut(SMALL, ExpectedActors(4, 4, 1.0), [30.0] * 160), actors=4, slots=128)
    farm.carry_out()
    farm.carry_out()
    assert {len(attempts) for attempts in farm.held.values()} == {4}


def test_long_rows_that_end_late_do_not_starve_an_actor() -> None:
    farm = Farm([100] * 40, actors=1, slots=100)
    farm.carry_out()
    farm.carry_out()
    assert len(farm.held[0]) == 3
    farm.dispatcher.on_heartbeat(0, Heartbeat(uncommitted_rows=290, clips=290))  # of each shard some rows are left
    farm.carry_out()
    assert 100 * len(farm.held[0]) - 290 >= 200
    farm.report_first_shard(0)
    assert farm.dispatcher.actors[0].settled_rows == 190


def test_tiny_shards_have_as_many_threads_as_slots_need() -> None:
    assert count_attempts(plan_of([1] * 1000), "auto", on_gpu=True) == 513  # `FaultLimits` allows 256
    assert count_attempts(plan_of([500] * 10), "auto", on_gpu=True) == 3
    assert count_attempts(plan_of([10] * 10), 8, on_gpu=False) == 5
    assert count_wanted_rows([], 0, 1) == 2


def test_what_an_engine_may_choose_is_known_to_the_driver() -> None:
    assert memory._MAX_SLOTS["cuda"] == MOST_AUTO_SLOTS["gpu"]
    assert memory._MAX_SLOTS["cpu"] == MOST_AUTO_SLOTS["cpu"]


def test_writers_follow_the_slots() -> None:
    assert [count_writers(slots) for slots in (1, 4, 8, 32, 65, 128, 1000)] == [2, 4, 8, 8, 16, 32, 32]


@pytest.mark.parametrize(("shards", "actors"), [(16, 2), (7, 3), (64, 4), (1, 2), (3, 2)])
def test_the_first_actor_to_be_ready_leaves_the_others_their_share(shards: int, actors: int) -> None:
    plan = plan_of([16] * shards)
    limits = replace(make_fault_limits(ClusterSettings()), attempts_per_actor=count_attempts(plan, "auto", on_gpu=True))
    dispatcher = Dispatcher(plan.shards, plan.shard_rows, limits, actors, actors)
    started = [action.actor for action in dispatcher.decide(0.0) if isinstance(action, StartActor)]
    for actor in started:
        dispatcher.on_started(actor, f"node {actor}", 0.5)
    held = dict.fromkeys(started, 0)
    for now, actor in enumerate(started, 1):
        dispatcher.on_ready(actor, float(now), 128)
        for action in dispatcher.decide(float(now)):
            if isinstance(action, AssignAttempt):
                held[action.actor] += 1
    assert max(held.values()) <= max(2, -(-shards // len(started)))
    assert min(held.values()) > 0 or shards < 2 * len(started)
