"""Any two drivers, of one job or of two, at any moment: each clip is in the index at most once, and none is lost."""

from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from musicgen.dataset import paths
from musicgen.dataset.driver_token import DriverToken
from musicgen.dataset.index_part import read_footer
from musicgen.dataset.reader import read_dataset
from musicgen.dataset.status import run_statuses
from musicgen.dataset.verification import verify_dataset
from musicgen.errors import DatasetBusy, JobError
from musicgen.job import Job
from musicgen.plan import PlanOutcome, make_plan, pending_shards
from musicgen.run_plan import format_time
from musicgen.storage import Store, open_store
from tests.fixtures.planning import PlannedCheckpoint, make_shard
from tests.fixtures.watched_store import WatchedStore

ROWS = "prompt,id\none,a\ntwo,b\nthree,c\n"
GROWN = ROWS + "four,d\n"
OTHER = "prompt,id\ntwo,b\nfive,e\n"
SUPERSEDE = "output.supersede_unfinished=true"


class Killed(BaseException):
    """The planner's process ends at this call."""


class Jobs:
    """Plans jobs of one dataset, and makes what they have planned."""

    def __init__(self, folder: Path, output: str):
        self.folder, self.output = folder, output

    @property
    def store(self) -> Store:
        return open_store(self.output)

    def plan(self, rows: str, *overrides: str, store: Store | None = None, **options: object) -> PlanOutcome:
        manifest = self.folder / f"{hash(rows) & 0xFFFFFF:06x}.csv"
        manifest.write_text(rows)
        settings = ["cluster.shard_rows=1", *overrides]
        job = Job.load(None, settings, manifest=str(manifest), output=self.output)
        return make_plan(job, PlannedCheckpoint(), store or self.store, **options)  # type: ignore[arg-type]

    def drive(self, outcome: PlanOutcome, count: int | None = None) -> None:
        """Make the run's pending shards, or the first `count` of them, as its actors would."""
        if outcome.plan is not None:
            for shard in pending_shards(self.store, outcome.plan)[:count]:
                make_shard(self.store, outcome.plan, shard)

    def finish(self, rows: str) -> None:
        """Run a job until nothing is missing, whatever others have left; it supersedes them."""
        for _ in range(4):
            outcome = self.plan(rows, SUPERSEDE)
            if outcome.plan is None:
                return
            self.drive(outcome)
        raise AssertionError("the job does not come to an end")

    def check(self, *manifests: str) -> None:
        """Check that the rows of these manifests are in the index once, and that the dataset is sound."""
        dataset = read_dataset(self.store)
        ids = Counter(dataset.to_arrow(["id"])["id"].to_pylist())
        assert max(ids.values()) == 1, ids
        expected = {line.partition(",")[2] for rows in manifests for line in rows.split()[1:]}
        assert expected <= set(ids)
        report = verify_dataset(dataset)
        assert report.sound, report.faults


@pytest.fixture(params=["folder", "s3"])
def jobs(request: pytest.FixtureRequest, tmp_path: Path) -> Jobs:
    output = str(tmp_path / "out") if request.param == "folder" else request.getfixturevalue("s3").uri
    return Jobs(tmp_path, output)


@pytest.fixture
def local_jobs(tmp_path: Path) -> Jobs:
    return Jobs(tmp_path, str(tmp_path / "out"))


def test_a_living_driver_loses_the_shards_that_were_closed(jobs: Jobs) -> None:
    first = jobs.plan(ROWS)
    jobs.drive(first, 1)
    closed: list[tuple[str, int, int]] = []
    second = jobs.plan(GROWN, SUPERSEDE, on_shards_closed=lambda *call: closed.append(call))
    assert second.plan is not None
    assert first.plan is not None
    assert closed == [(first.plan.run, done, 2) for done in range(3)]
    assert (second.new, second.made) == (3, 1)
    assert pending_shards(jobs.store, first.plan) == []
    for shard in (1, 2):  # a driver and an actor of the first run are still at work
        assert not make_shard(jobs.store, first.plan, shard).won
        assert read_footer(jobs.store, paths.index_part(first.plan.run, shard)).closed == second.plan.run
    jobs.drive(second)
    jobs.check(GROWN)
    assert jobs.plan(GROWN).plan is None
    old, new = sorted(run_statuses(read_dataset(jobs.store)), key=lambda status: status.closed, reverse=True)
    assert (old.made, old.closed, old.missing, old.closed_by, old.superseded) == (1, 2, 0, second.plan.run, True)
    assert (new.made, new.closed, new.missing, new.closed_by, new.superseded) == (3, 0, 0, None, False)


def test_a_shard_that_commits_while_its_run_is_closed_is_not_planned_again(local_jobs: Jobs) -> None:
    first = local_jobs.plan(ROWS)
    assert first.plan is not None
    committed = []

    def commit_first(call: str, path: str) -> None:
        if call == "put_if_absent" and path == paths.index_part(first.plan.run, 1):
            committed.append(make_shard(local_jobs.store, first.plan, 1).won)

    store = WatchedStore.open_folder(Path(local_jobs.output), commit_first)
    second = local_jobs.plan(GROWN, SUPERSEDE, store=store)
    assert committed == [True]
    assert (second.new, second.made) == (3, 1)
    local_jobs.drive(second)
    local_jobs.check(GROWN)


def test_only_a_run_that_gave_no_sign_yet_counts_as_starting(local_jobs: Jobs) -> None:
    ended = "output.supersede_unfinished=ended"
    first = local_jobs.plan(ROWS)
    assert first.plan is not None
    with pytest.raises(DatasetBusy, match="its driver may be starting"):  # two jobs that begin at one moment
        local_jobs.plan(OTHER, ended)
    path = paths.driver_token(first.plan.run, "d1")
    local_jobs.store.write(path, b"of another release")
    with pytest.raises(DatasetBusy, match="its driver may be starting"):
        local_jobs.plan(OTHER, ended)
    now = datetime.now(UTC)
    local_jobs.store.write(path, DriverToken(host="elsewhere", written_at=format_time(now)).to_json())
    with pytest.raises(DatasetBusy, match="at work on elsewhere"):
        local_jobs.plan(OTHER, ended)
    silent_since = format_time(now - timedelta(seconds=100))
    local_jobs.store.write(path, DriverToken(host="elsewhere", written_at=silent_since).to_json())
    second = local_jobs.plan(OTHER, ended)
    assert second.plan is not None
    assert local_jobs.store.exists(paths.superseded_note(first.plan.run))
    with pytest.raises(DatasetBusy, match="its driver may be starting"):
        local_jobs.plan(ROWS, ended)


def at_call(number: int, kinds: frozenset[str], action: Callable[[], None]) -> Callable[[str, str], None]:
    """Return a hook that acts before the call of this number, of those of some kinds."""
    numbers = iter(range(1 << 30))

    def hook(call: str, path: str) -> None:
        if call in kinds and next(numbers) == number:
            action()

    return hook


def kill() -> None:
    raise Killed


def prepare(jobs: Jobs) -> PlanOutcome:
    """Plan a run, and make one of its three shards."""
    outcome = jobs.plan(ROWS)
    jobs.drive(outcome, 1)
    return outcome


def each_call(tmp_path: Path, kinds: frozenset[str]) -> Iterator[tuple[int, Jobs, PlanOutcome]]:
    """A prepared dataset and its unfinished run for each call of some kinds that a superseding planner makes."""
    counted = Jobs(tmp_path, str(tmp_path / "counted"))
    prepare(counted)
    calls: list[str] = []
    store = WatchedStore.open_folder(Path(counted.output), lambda call, path: calls.append(call))
    counted.plan(GROWN, SUPERSEDE, store=store)
    for number in range(sum(call in kinds for call in calls)):
        jobs = Jobs(tmp_path, str(tmp_path / f"out-{number}"))
        yield number, jobs, prepare(jobs)


WRITES = frozenset({"put_if_absent", "write", "delete"})
LISTS = frozenset({"list"})
READS = frozenset({"read", "open"})


def test_a_planner_killed_at_any_write_leaves_nothing_that_the_next_one_cannot_finish(tmp_path: Path) -> None:
    for number, jobs, first in each_call(tmp_path, WRITES):
        store = WatchedStore.open_folder(Path(jobs.output), at_call(number, WRITES, kill))
        with pytest.raises(Killed):
            jobs.plan(GROWN, SUPERSEDE, store=store)
        if number % 2:
            jobs.finish(OTHER)
        jobs.drive(first)  # the first run's driver was stopped all the while
        jobs.finish(GROWN)
        jobs.check(GROWN)
    assert number >= 8


@pytest.mark.parametrize(
    ("rows", "superseding", "kinds"),
    [
        pytest.param(OTHER, True, WRITES, id="other-job-superseding"),
        pytest.param(OTHER, True, LISTS | READS, id="other-job-superseding-reads", marks=pytest.mark.slow),
        pytest.param(OTHER, False, LISTS | WRITES | READS, id="other-job-refusing", marks=pytest.mark.slow),
        pytest.param(GROWN, True, LISTS | WRITES | READS, id="same-job-superseding", marks=pytest.mark.slow),
        pytest.param(GROWN, False, LISTS | WRITES | READS, id="same-job-refusing", marks=pytest.mark.slow),
    ],
)
def test_a_second_planner_at_any_call_of_the_first(
    tmp_path: Path, rows: str, superseding: bool, kinds: frozenset[str]
) -> None:
    for number, jobs, old in each_call(tmp_path, kinds):
        outcomes: list[PlanOutcome] = []

        def plan_second(jobs: Jobs = jobs, outcomes: list[PlanOutcome] = outcomes) -> None:
            try:
                outcomes.append(jobs.plan(rows, *([SUPERSEDE] if superseding else [])))
                jobs.drive(outcomes[0], 1)
            except JobError as error:
                assert "unfinished" in str(error)  # noqa: PT017 - whether it is refused depends on the moment

        store = WatchedStore.open_folder(Path(jobs.output), at_call(number, kinds, plan_second))
        outcomes.append(jobs.plan(GROWN, SUPERSEDE, store=store))
        for outcome in [old, *outcomes]:
            jobs.drive(outcome)
        jobs.finish(GROWN)
        jobs.check(GROWN)
