"""A Prefect API to talk to: the one that is configured, or a temporary one that starts while the job is planned.

Prefect would start its temporary server itself when the flow begins, and the ten seconds that takes would then be lost.
"""

import os
import threading
import urllib.error
import urllib.request
from typing import Any

from musicgen.errors import JobError

# A temporary server lives for one flow run: no schedules to keep, no blocks to register.
_TEMPORARY = {
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",  # its first start on a busy machine migrates a database
    "PREFECT_API_BLOCKS_REGISTER_ON_START": "false",
    "PREFECT_SERVER_SERVICES_SCHEDULER_ENABLED": "false",
    "PREFECT_SERVER_SERVICES_LATE_RUNS_ENABLED": "false",
}


class PrefectServer:
    """Starts in the background; `wait` until it answers."""

    def __init__(self) -> None:
        self._error: BaseException | None = None
        self._server: Any = None
        for name, value in _TEMPORARY.items():
            os.environ.setdefault(name, value)
        self._thread = threading.Thread(target=self._start, name="prefect", daemon=True)
        self._thread.start()

    def wait(self) -> None:
        """Until the API answers. Raises `JobError` if a configured server does not."""
        self._thread.join()
        if self._error is not None:
            raise self._error

    def abandon(self) -> None:
        """End a temporary server that will not be needed."""
        self._thread.join()
        if self._server is not None:
            self._server.stop()

    def _start(self) -> None:
        try:
            from prefect.settings import PREFECT_API_URL

            url = PREFECT_API_URL.value()
            if url:
                _check(url)
                return
            from prefect.server.api.server import SubprocessASGIServer

            self._server = SubprocessASGIServer()
            self._server.start()
        except BaseException as error:  # told in `wait`
            self._error = error


def _check(url: str) -> None:
    try:
        urllib.request.urlopen(f"{url.rstrip('/')}/health", timeout=5)
    except urllib.error.HTTPError:
        return  # it answers; whether it lets us in is for Prefect to say
    except OSError as error:
        reason = getattr(error, "reason", error)
        raise JobError(
            f"the Prefect server at {url} does not answer ({reason}); start it, or unset PREFECT_API_URL to do without"
        ) from None
