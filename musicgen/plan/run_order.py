"""The order of a dataset's runs: entry n of `runs/order/` is the plan of its n-th run, put only if absent.

A planner looks at all runs up to the latest entry, n; none of them may be able to commit any more. Then it plans, and
puts entry n + 1. Whoever puts it first has planned the next run; the other has to look again. So nobody's plan can be
based on a look at the dataset that has become out of date, and no clock decides anything. docs/commit.md has the proof.
"""

from collections.abc import Sequence
from datetime import UTC, datetime

from musicgen.dataset import paths
from musicgen.dataset.driver_token import read_driver_tokens, select_living
from musicgen.errors import DatasetBusy, JobError, StoreError
from musicgen.job import Job
from musicgen.plan.planned_runs import PlannedRun, RunListing
from musicgen.run_plan import Plan, describe_later_version, parse_time
from musicgen.storage import Store

_STARTING_S = 600.0  # from a plan to the first sign of its driver, which starts Ray in between


def put_plan(store: Store, plan: Plan) -> bool:
    """Make the plan that of the dataset's run number `plan.order`. Returns False if another plan was first.

    From the moment the entry is there the run counts as planned; `plan.json` is a copy under the run's name.
    """
    content = plan.to_json().encode()
    if not store.commit_if_absent(paths.order_entry(plan.order), content):
        return False
    write_plan_file(store, paths.plan_file(plan.run), content)
    return True


def write_plan_file(store: Store, path: str, content: bytes) -> None:
    """Write a run's `plan.json`, unless another planner has; it is the one that its order entry holds."""
    if not store.commit_if_absent(path, content):
        raise StoreError(f"{store.join(path)} is not the plan that {paths.RUNS}/order/ holds for this run; restore it")


def find_adoptable(listing: RunListing, name_prefix: str, closed: Sequence[PlannedRun] = ()) -> PlannedRun | None:
    """Return the unfinished run of a job, if it can go on: no other run has been planned since, or may still commit.

    It is not adopted while its shards are being closed, or if its manifest is gone. `closed` are runs that count as
    finished, for a look at what comes after they are closed.
    """
    unfinished = [run for run in listing.unfinished if run not in closed]
    own = [run for run in unfinished if run.name_prefix == name_prefix]
    if len(unfinished) != 1 or not own:
        return None
    (run,) = own
    is_latest = run.order == listing.last_order
    return run if is_latest and run.plan is not None and not run.closing and run.has_manifest else None


def runs_to_close(store: Store, job: Job, listing: RunListing, name_prefix: str) -> list[PlannedRun]:
    """Return the runs that must be closed before the job's next run is planned.

    Besides those that are half closed, these are runs that cannot be adopted but may commit: runs of this job that
    another run came after or whose manifest is gone; and runs of other jobs, if the job supersedes them. Raises
    `JobError` for another job's run if it does not, and `DatasetBusy` if only ended runs are superseded and this one's
    driver is at work.
    """
    unfinished = listing.unfinished
    half_closed = [run for run in unfinished if run.closing]
    if half_closed and find_adoptable(listing, name_prefix, closed=half_closed):
        return half_closed
    for run in unfinished:
        is_own = run.name_prefix == name_prefix and run.plan is not None
        if run.closing or is_own or job.output.supersede_unfinished is True:
            continue
        if job.output.supersede_unfinished != "ended":
            raise JobError(_describe_unfinished(store, job, run))
        _refuse_living(store, run)
    return unfinished


def _refuse_living(store: Store, run: PlannedRun) -> None:
    """Raise `DatasetBusy` if a driver of the run was heard of a short while ago, or may just be starting.

    One that has left a token has started, and has ended if the token is no living driver's.
    """
    tokens = read_driver_tokens(store, run.run)
    drivers = select_living(tokens)
    created_at = parse_time(run.outline.created_at)
    if drivers:
        host = drivers[0].host or "another machine"
        at_work = f"at work on {host} since {drivers[0].started_at}"
    elif not tokens and created_at is not None and abs((datetime.now(UTC) - created_at).total_seconds()) < _STARTING_S:
        at_work = f"planned at {run.outline.created_at}, and its driver may be starting"
    else:
        return
    raise DatasetBusy(
        f"{store.uri}: run {run.run}, of another job or manifest, is {at_work} (missing: {len(run.pending)} of "
        f"{_count_shards(run)}); run this job again when it has ended"
    )


def _describe_unfinished(store: Store, job: Job, run: PlannedRun) -> str:
    missing = f"missing: {len(run.pending)} of {_count_shards(run)}"
    close_it = "close it and plan what is missing with --supersede (output.supersede_unfinished=true)"
    if run.plan is None:
        return f"{store.uri}: {describe_later_version(run.outline)} ({missing}), or, if it will never be, {close_it}"
    limit = run.plan.job.get("manifest", {}).get("limit")
    own = "run its job again"
    if limit != job.manifest.limit:
        own += f" ({f'with --limit {limit}' if limit is not None else 'without --limit'}, as it was planned)"
    return (
        f"{store.uri}: run {run.run}, of another job or manifest, is unfinished ({missing}); {own} to finish it, or, "
        f"if it will never be, {close_it}"
    )


def _count_shards(run: PlannedRun) -> str:
    count = len(run.outline.shard_rows)
    return "1 shard" if count == 1 else f"{count:,} shards"
