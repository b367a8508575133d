"""Two different unfinished runs of one dataset could make a clip twice, so there is only ever one.

A planner looks for others before it writes its plan and once more afterwards, since another planner may have written
one in between. Each of the two then sees the other's plan, or the later one does.
"""

import json
from collections.abc import Collection, Sequence
from datetime import UTC, datetime

from musicgen.dataset import paths
from musicgen.errors import JobError
from musicgen.job import Job
from musicgen.plan.history import PlannedRun, load_plan
from musicgen.run_plan import Plan, format_time
from musicgen.storage import Store


def close_other_runs(store: Store, job: Job, unfinished: Sequence[PlannedRun], dry_run: bool) -> None:
    """Close the unfinished runs of other jobs if the job says so; a dry run leaves them as they are.

    Raises `JobError` if there is one and the job does not say so.
    """
    if job.output.supersede_unfinished:
        for run in [] if dry_run else unfinished:
            _write_superseded_note(store, run.plan.run, {"pending_shards": len(run.pending)})
    elif unfinished:
        run = unfinished[0]
        raise JobError(
            f"{store.uri}: run {run.plan.run}, of another job or manifest, is unfinished ({len(run.pending)} of "
            f"{len(run.plan.shards)} shards are missing); run its job again to finish it, or, if it will never be, set "
            "output.supersede_unfinished=true to close it and plan its missing rows anew"
        )


def refuse_simultaneous_run(store: Store, job: Job, plan: Plan, known_runs: Collection[str]) -> None:
    """Close the plan that was just written if another job's was written since `known_runs` were listed.

    Raises `JobError` then. A job that supersedes unfinished runs is not checked.
    """
    if job.output.supersede_unfinished or not plan.shards:
        return
    for info in store.list(paths.RUNS):
        run = info.path.split("/")[1]
        if info.path != paths.plan_file(run) or run == plan.run or run in known_runs:
            continue
        if load_plan(store, run).shards:
            _write_superseded_note(store, plan.run, {})
            raise JobError(
                f"{store.uri}: run {run} of another job was planned at this moment; run this one when it has finished"
            )


def _write_superseded_note(store: Store, run: str, details: dict[str, int]) -> None:
    note = {"superseded_at": format_time(datetime.now(UTC)), **details}
    store.put_if_absent(paths.superseded_note(run), json.dumps(note).encode())
