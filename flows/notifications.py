"""Tells others how a deployed run has ended: the event `dataset.published` in Prefect, and a webhook for a failure."""

import json
import os
import urllib.request
from contextlib import suppress

from prefect.client.schemas.objects import FlowRun, State
from prefect.events import emit_event
from prefect.logging import get_run_logger

from flows.summary import Summary
from musicgen.errors import redact_urls

PUBLISHED_EVENT = "dataset.published"
WEBHOOK_VARIABLE = "MUSICGEN_FAILURE_WEBHOOK"
_TIMEOUT_S = 10.0


def emit_published(summary: Summary) -> None:
    """Emit the event by which another deployment can be triggered; its resource is `musicgen.dataset.<URI>`."""
    with suppress(Exception):  # Prefect stands beside a run
        emit_event(
            PUBLISHED_EVENT,
            resource={
                "prefect.resource.id": f"musicgen.dataset.{summary.dataset}",
                "prefect.resource.name": summary.dataset,
            },
            payload={
                "run": summary.run,
                "rows": summary.rows,
                "made": summary.made,
                "failed": summary.failed + summary.invalid,
                "missing": summary.missing,
                "audio_s": round(summary.audio_s, 1),
            },
        )


def send_failure(flow: object, flow_run: FlowRun, state: State[object]) -> None:
    """Post why a flow run failed, and the command that goes on with it, to the webhook of the worker's environment.

    The body is `{"text": ...}`, which Slack, Mattermost and others take. Without `MUSICGEN_FAILURE_WEBHOOK` nothing is
    sent; an address that does not answer within 10 s is only logged, without the address, which may be a secret.
    """
    address = os.environ.get(WEBHOOK_VARIABLE, "")
    if not address:
        return
    logger = get_run_logger()
    if not address.startswith(("https://", "http://")):
        logger.warning("%s is no http(s) address; nothing was sent", WEBHOOK_VARIABLE)
        return
    body = json.dumps({"text": describe_failure(flow_run, state)}).encode()
    request = urllib.request.Request(address, body, {"Content-Type": "application/json"})
    try:
        urllib.request.urlopen(request, timeout=_TIMEOUT_S).close()
    except (OSError, ValueError) as error:
        logger.warning("the webhook of %s does not take messages (%s)", WEBHOOK_VARIABLE, type(error).__name__)


def describe_failure(flow_run: FlowRun, state: State[object]) -> str:
    """Return two lines: what failed and why, and the command that goes on."""
    reason = " ".join(redact_urls(state.message or str(state.name)).split())[:1000]
    return (
        f"musicgen: flow run {flow_run.name} ended as {state.name}: {reason}\n"
        f"To go on: prefect deployment run --id {flow_run.deployment_id}"
    )
