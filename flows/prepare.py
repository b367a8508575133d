"""What happens before any actor: the store is looked at, the model found, the manifest planned."""

from collections.abc import Sequence
from dataclasses import dataclass

from musicgen.job import Job
from musicgen.model.checkpoint.resolve import Checkpoint, resolve_checkpoint
from musicgen.plan import PlanOutcome, load_plan, make_plan
from musicgen.storage import Store, open_store


@dataclass(frozen=True)
class Ground:
    """What a job stands on: its output and its checkpoint, both found to be there."""

    job: Job
    store: Store
    checkpoint: Checkpoint


def survey(job: Job) -> Ground:
    """Look at output and model; writes nothing. Raises `StoreError` or `ModelError`."""
    store = open_store(job.output.uri, job.output.single_writer)
    store.check()
    return Ground(job, store, resolve_checkpoint(job.model.name, job.model.revision))


def plan_job(ground: Ground, dry_run: bool = False, retry_failed: Sequence[str] = ()) -> PlanOutcome:
    """Plan what is missing. Unless it is a dry run, the store is probed and the plan is frozen in it.

    Raises `ManifestError`, `StoreError` or `JobError`; then nothing was written.
    """
    return make_plan(ground.job, ground.checkpoint, ground.store, dry_run=dry_run, retry_failed=tuple(retry_failed))


def adopt(ground: Ground, run: str) -> PlanOutcome:
    """The outcome of planning again what `run` has planned before."""
    plan = load_plan(ground.store, run)
    counts = {
        "made": 0,
        "failed_before": 0,
        "retried": 0,
        "held_back": 0,
        "invalid_count": plan.invalid,
        "shards": len(plan.shards),
    }
    return PlanOutcome(plan, new=plan.rows, invalid=(), audio_s=plan.audio_s, adopted=True, **counts)
