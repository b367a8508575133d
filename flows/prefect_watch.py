"""Watches the Prefect API that a run is recorded in."""

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from contextvars import copy_context
from uuid import UUID

from flows.prefect_server import ask_health
from flows.record_messages import CancelRequested, Connected, FromRecorder, Notice, Unreachable
from musicgen.errors import first_line, redact_urls

_INTERVAL_S = 5.0
_TIMEOUT_S = 5.0
_FAILURES = 2  # in a row: a server that is busy for a moment is not away


class PrefectWatch:
    """Reports once that the API stopped answering, once that it answers again, and that the run was cancelled in it.

    `explain` returns why a server that we have started has ended; empty if it runs, or is not ours.
    """

    def __init__(self, url: str, send: Callable[[FromRecorder], None], explain: Callable[[], str]):
        self.flow_run_id: UUID | None = None  # set it when the flow run begins
        self.answers = threading.Event()
        self._told = False  # that the API does not answer
        self._url = url
        self._send = send
        self._explain = explain
        self._name = f"Prefect at {redact_urls(url)}"

    def start(self, temporary: bool) -> None:
        """Watch from a thread until the process ends. Prefect's settings are those of the caller."""
        work = copy_context().run
        threading.Thread(target=work, args=(self._watch, temporary), name="watch", daemon=True).start()

    def report_error(self, error: Exception) -> None:
        """Report that the record broke off by an error, unless the API is known to be away."""
        if not self._told:
            reason = first_line(error)
            if getattr(getattr(error, "response", None), "status_code", 0) in (401, 403):
                reason = "access is refused; set PREFECT_API_AUTH_STRING=user:password"
            elif "CERTIFICATE_VERIFY_FAILED" in str(error.__cause__):
                reason = "its certificate is not trusted; set PREFECT_API_SSL_CERT_FILE to a file of its authority"
            self._send(Unreachable(f"{self._name}: {reason}; the run goes on without it"))

    def _watch(self, temporary: bool) -> None:
        failures, since = 0, ""
        while True:
            if ask_health(self._url, _TIMEOUT_S) is None:
                if self._told:
                    self._send(Notice(f"{self._name} answers again"))
                if self._told or not self.answers.is_set():
                    self._send(Connected(temporary))
                failures, self._told = 0, False
                self.answers.set()
                self._look_for_cancellation()
            else:
                since = since if failures else time.strftime("%H:%M:%S")
                failures += 1
                starting = temporary and not self.answers.is_set() and not self._explain()
                if failures >= _FAILURES and not self._told and not starting:
                    self._told = True
                    self._send(Unreachable(self._describe_outage(since)))
            time.sleep(_INTERVAL_S if self.answers.is_set() else 0.5)

    def _describe_outage(self, since: str) -> str:
        if reason := self._explain():
            verb = "ended" if self.answers.is_set() else "did not start"
            return f"Prefect's temporary server {verb} ({reason}); the run goes on without it"
        return f"{self._name} does not answer since {since}; the run goes on without it"

    def _look_for_cancellation(self) -> None:
        if self.flow_run_id is None:
            return
        from prefect.client.orchestration import get_client
        from prefect.settings import PREFECT_CLIENT_MAX_RETRIES, temporary_settings

        with suppress(Exception), temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 0}):
            with get_client(httpx_settings={"timeout": _TIMEOUT_S}, sync_client=True) as client:
                state = client.read_flow_run(self.flow_run_id).state
            if state is not None and (state.is_cancelling() or state.is_cancelled()):
                self.flow_run_id = None
                self._send(CancelRequested())
