"""Connects to a Prefect API: the configured one, or a temporary one that starts while the job is planned."""

import os
import re
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO

from musicgen.errors import JobError, MusicGenError

_START_TIMEOUT_S = 180.0  # the first start on a busy machine migrates a database

_EXCEPTION = re.compile(r"[\w.]+(Error|Exception)\b")  # the line that ends a traceback

# It lives for one flow run: no interface, no schedules to keep, no blocks to register.
_TEMPORARY = {
    "PREFECT__SERVER_EPHEMERAL": "1",
    "PREFECT__SERVER_FINAL": "1",
    "PREFECT_UI_ENABLED": "0",
    "PREFECT_API_BLOCKS_REGISTER_ON_START": "false",
    "PREFECT_SERVER_SERVICES_SCHEDULER_ENABLED": "false",
    "PREFECT_SERVER_SERVICES_LATE_RUNS_ENABLED": "false",
    "PREFECT_SERVER_LOGGING_LEVEL": "ERROR",
}


class PrefectServer:
    """Starts in the background. Use `connected` around flows; `stop` ends a temporary server.

    Raises `JobError` if the environment names a server that does not answer.
    """

    def __init__(self) -> None:
        named = os.environ.get("PREFECT_API_URL", "")
        if named:
            _check(named)
        self._error: Exception | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._log: IO[bytes] | None = None
        self._url = ""
        self._stopping = False
        self._thread = threading.Thread(target=self._begin, args=(named,), name="prefect", daemon=True)
        self._thread.start()

    @contextmanager
    def connected(self) -> Iterator[None]:
        """Wait until the API answers; within, Prefect talks to it. Raises `JobError` if a configured one does not."""
        self._thread.join()
        if self._error is not None:
            raise self._error
        if self._process is None:
            yield
            return
        from prefect.settings import PREFECT_API_URL, temporary_settings

        with temporary_settings({PREFECT_API_URL: self._url}):
            yield

    def stop(self) -> None:
        """End a temporary server. Quick, also while it is starting."""
        self._stopping = True
        self._thread.join(5)
        process = self._process
        if process is None or process.stdin is None:
            return
        process.stdin.close()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _begin(self, named: str) -> None:
        try:
            from prefect.settings import PREFECT_API_URL

            configured = PREFECT_API_URL.value()  # or by a profile of Prefect
            if configured and not named:
                _check(configured)
            elif not named and not self._stopping:
                self._start()
        except Exception as error:  # `connected` raises it
            self._error = error

    def _start(self) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self._url = f"http://127.0.0.1:{port}/api"
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 (the child writes to it as long as it lives)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "flows.temporary_server", str(port)],
            stdin=subprocess.PIPE,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            env={**os.environ, **_TEMPORARY, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            start_new_session=True,
        )
        deadline = time.monotonic() + _START_TIMEOUT_S
        while not self._stopping:
            if self._process.poll() is not None or time.monotonic() > deadline:
                self._log.seek(0)
                reason = _last_error(self._log.read().decode(errors="replace"))
                raise MusicGenError(f"Prefect's temporary server did not start: {reason or 'no answer'}")
            try:
                with urllib.request.urlopen(f"{self._url}/health", timeout=2):
                    return
            except OSError:
                time.sleep(0.1)


def _last_error(log: str) -> str:
    """Return the last line of a log that names an exception, else its last line."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    errors = [line for line in lines if _EXCEPTION.match(line)]
    return (errors or lines or [""])[-1]


def _check(url: str) -> None:
    try:
        urllib.request.urlopen(f"{url.rstrip('/')}/health", timeout=5).close()
    except urllib.error.HTTPError:
        return  # it answers; whether it lets us in is for Prefect to say
    except OSError as error:
        reason = getattr(error, "reason", error)
        raise JobError(
            f"the Prefect server at {url} does not answer ({reason}): start it, or unset PREFECT_API_URL"
        ) from None
