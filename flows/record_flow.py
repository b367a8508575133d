"""The flow run that follows a run of `musicgen run`: the same name and tasks as the flow of a deployment."""

from contextlib import suppress

from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.exceptions import CancelledRun
from prefect.runtime import flow_run
from prefect.states import Cancelled

from actors.messages import Progress
from flows.artifacts import ProgressArtifact, publish_summary
from flows.prefect_watch import PrefectWatch
from flows.record_inbox import Inbox
from flows.record_messages import RunEnded, RunGenerated, RunPlanned, RunPublished

FLOW_NAME = "synthesize"


class RunFailed(Exception):
    """The run that is recorded has failed."""


def record_run(planned: RunPlanned, inbox: Inbox, watch: PrefectWatch) -> None:
    """Record a run until it ends. Raises what Prefect raises, but not that the run has failed."""

    @task(name="generate", cache_policy=NO_CACHE, persist_result=False)
    def generate() -> str:
        with ProgressArtifact(planned.run) as artifact:
            while True:
                match inbox.take():
                    case Progress() as progress:
                        artifact.update(progress)
                    case RunGenerated(progress):
                        if progress is not None:
                            artifact.update(progress)
                        return ""
                    case RunEnded() as ended:
                        return _end(ended)

    @task(name="publish", cache_policy=NO_CACHE, persist_result=False)
    def publish() -> str:
        match inbox.take():
            case RunPublished(summary, failures):
                publish_summary(summary, failures)
            case RunEnded() as ended:
                return _end(ended)
        return ""

    @flow(name=FLOW_NAME, persist_result=False, log_prints=False, validate_parameters=False)
    def synthesize(job: dict[str, object], run: str) -> State[None] | None:
        watch.flow_run_id = flow_run.id
        stopped = generate() or publish()
        return Cancelled(message=stopped) if stopped else None

    with suppress(RunFailed, CancelledRun):  # Prefect raises the second for a flow that says that it was stopped
        synthesize(planned.job, planned.run)


def _end(ended: RunEnded) -> str:
    if not ended.stopped:
        raise RunFailed(ended.reason)
    return ended.reason
