"""Six fixed schedules of faults on one set of servers: nothing lost, nothing twice, nobody blamed."""

from collections.abc import Iterator

import pytest

from tests.faults.bench import Bench
from tests.faults.harness import Trial, logs_of
from tests.faults.jobs import EXTRA_ID, FAILED, GOOD_IDS
from tests.faults.judge import Outcome, judge_outcome
from tests.faults.schedule import Event, Moment, Schedule

pytestmark = pytest.mark.timeout(280, func_only=True)

SCHEDULES = [
    Schedule(
        "replies are lost and requests refused",
        "files",
        (
            Event("store_lost_reply", Moment("start"), target="plan", count=1),
            Event("store_lost_reply", Moment("planned"), target="index", count=2),
            Event("store_409", Moment("loading"), target="audio", count=2),
            Event("store_reset", Moment("committed", commits=2), target="writes", count=3),
        ),
        min_actors=1,
        max_actors=1,
    ),
    Schedule(
        "the store is down for a while",
        "parquet",
        (
            Event("store_503", Moment("start"), target="melodies", count=3),
            Event("store_refused", Moment("committed", commits=2), seconds=2),
        ),
        min_actors=1,
        max_actors=1,
    ),
    Schedule(
        "an actor and a node are lost",
        "webdataset",
        (
            Event("actor_kill", Moment("committed", commits=1)),
            Event("node_kill", Moment("committed", commits=3)),
        ),
    ),
    Schedule(
        "an actor and a raylet stand still for a while",
        "parquet",
        (
            Event("actor_stop", Moment("committed", commits=1), seconds=2),
            Event("raylet_stop", Moment("committed", commits=4), seconds=2),
        ),
        min_actors=1,
        max_actors=1,
    ),
    Schedule(
        "the driver is killed beside a second one",
        "files",
        (Event("second_driver", Moment("planned")), Event("driver_kill", Moment("committed", commits=3))),
    ),
    Schedule("Prefect is killed", "parquet", (Event("prefect_kill", Moment("loading")),), min_actors=1, max_actors=1),
]
SUPERSEDED = Schedule("a living run is superseded", "files", (Event("superseding_job", Moment("planned")),))


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """The servers, with clips that take a tenth of a second."""
    with Bench(tmp_path_factory.mktemp("faults") / "bench", clip_s=0.1) as bench:
        yield bench


@pytest.fixture(scope="module")
def outcomes() -> list[Outcome]:
    """What the schedules have left so far."""
    return []


@pytest.mark.parametrize(
    "schedule", [*SCHEDULES, pytest.param(SUPERSEDED, marks=pytest.mark.slow)], ids=lambda schedule: schedule.name
)
def test_it_is_as_if_there_had_been_no_fault(bench: Bench, outcomes: list[Outcome], schedule: Schedule):
    name = schedule.name.replace(" ", "-")
    result, outcome = Trial(bench, schedule, name).run(calm=None)
    outcomes.append(outcome)
    result.verdict = judge_outcome(outcome, outcomes[0])  # a calm run would take time, and all must be equal
    # A busy machine may need half a minute to start a process: how long nothing is printed is judged by `make chaos`.
    troubles = [trouble for trouble in result.troubles if not trouble.startswith("silent for")]
    troubles += [
        f"{event.kind} hit nothing"
        for event in schedule.events
        if event.moment.phase != "committed" and not result.hits[event.kind]
    ]
    assert not troubles, f"{troubles}\n{logs_of(bench.folder / 'trials' / name)}"
    assert set(outcome.ids.values()) - {EXTRA_ID} == set(GOOD_IDS)
    assert outcome.failed == FAILED
