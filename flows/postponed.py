"""Lets a deployed flow run be tried again later, by whichever worker is free then."""

from datetime import UTC, datetime, timedelta
from uuid import UUID

from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import State
from prefect.exceptions import Pause
from prefect.runtime import deployment, flow_run
from prefect.states import Scheduled
from prefect.utilities.engine import propose_state_sync

from musicgen.errors import ClusterUnavailable, DatasetBusy, MusicGenError, StoreUnavailable, UserError

AWAITING_DATASET = "AwaitingDataset"
_AWAITING_RETRY = "AwaitingRetry"  # Prefect's own name for it


def postpone_run(error: MusicGenError, retries: int, delay_s: float) -> None:
    """Schedule this flow run again in `delay_s` and end its process by `Pause`; return if `error` ends the flow run.

    A dataset at which another run is at work is waited for without a limit. What may pass (a store that does not
    answer, a Ray that does not start, actors that cannot be had) is tried again `retries` times; a mistake in job or
    manifest is not. Outside of a deployment nobody would try again.
    """
    if not deployment.id:
        return
    if isinstance(error, DatasetBusy):
        _schedule(AWAITING_DATASET, str(error), delay_s)
    passes = isinstance(error, ClusterUnavailable) or isinstance(error.__cause__, StoreUnavailable)
    if (passes or not isinstance(error, UserError)) and flow_run.run_count <= retries:
        _schedule(_AWAITING_RETRY, f"try {flow_run.run_count} of {retries + 1} failed: {error}", delay_s)


def _schedule(name: str, message: str, delay_s: float) -> None:
    state: State[None] = Scheduled(
        name=name, message=message, scheduled_time=datetime.now(UTC) + timedelta(seconds=delay_s)
    )
    with get_client(sync_client=True) as client:
        accepted = propose_state_sync(client, state, UUID(flow_run.id))
    if accepted.is_scheduled():
        raise Pause(state=accepted)
