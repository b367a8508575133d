"""Writes what one driver has done into the report of its run."""

from dataclasses import asdict
from datetime import UTC, datetime, timedelta

from actors.messages import GenerationResult
from musicgen.dataset.run_report import RunReport, Session, describe_hardware, package_versions, write_report
from musicgen.errors import LimitReached
from musicgen.job import Job
from musicgen.plan import Plan
from musicgen.run_plan import format_time
from musicgen.storage import Store


def record_session(
    job: Job, store: Store, plan: Plan, result: GenerationResult, ended_by: BaseException | None = None
) -> None:
    """Add what this driver has done to the run's report."""
    is_limit = isinstance(ended_by, LimitReached)
    end = datetime.now(UTC)
    progress = result.progress
    session = Session(
        started_at=format_time(end - timedelta(seconds=result.seconds)),
        finished_at=format_time(end),
        interrupted=ended_by is not None and not is_limit,
        made=progress.made,
        failed=progress.failed,
        audio_s=progress.audio_s,
        wall_s=result.seconds,
        actors=len(result.loaded_actors),
        timings_s={
            "cluster": result.cluster_start_s,
            "load": max((actor.load_s for actor in result.loaded_actors), default=0.0),
            "compile": max((actor.compile_s for actor in result.loaded_actors), default=0.0),
            "generate": progress.generating_s,
        },
        events={
            "crashes": progress.crashes,
            "preemptions": progress.preemptions,
            "losses": progress.losses,
            "kills": progress.kills,
            "given_up": len(result.given_up),
        },
        versions=package_versions(),
        hardware=describe_hardware() | {"peak_actor_rss_mb": round(result.peak_rss_mb)},
        engines=tuple(sorted({actor.engine for actor in result.loaded_actors})),
        actor_s=round(result.actor_s, 3),
        gpus_per_actor=result.gpus_per_actor,
        price_per_hour=job.cluster.price_per_hour,
        timeline=result.timeline,
        stopped_by=str(ended_by) if is_limit else "",
    )
    write_report(store, make_run_report(plan, session))


def make_run_report(plan: Plan, *sessions: Session) -> RunReport:
    """Return the run's report with these sessions."""
    return RunReport(plan.run, plan.job, asdict(plan.model), sessions)
