"""The Prefect API that a run is recorded in: the configured one, or a temporary server that starts for the run."""

import os
import re
import secrets
import shutil
import socket
import ssl
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from urllib.parse import urlsplit

from musicgen.errors import JobError, redact_urls

_CHECK_TIMEOUT_S = 5.0
_EXCEPTION = re.compile(r"[\w.]+(Error|Exception)\b")  # the line that ends a traceback
_LOOPBACK = ("127.0.0.1", "localhost", "::1")

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


def check_prefect_url() -> None:
    """Raise `JobError` if PREFECT_API_URL names a server that does not answer, or holds a password."""
    url = os.environ.get("PREFECT_API_URL", "")
    if not url:
        return
    if "@" in urlsplit(url).netloc:
        raise JobError(
            f"PREFECT_API_URL {redact_urls(url)} holds a user name or password: leave it out, and set "
            "PREFECT_API_AUTH_STRING=user:password"
        )
    if error := ask_health(url, _CHECK_TIMEOUT_S):
        raise JobError(f"the Prefect server at {url} does not answer ({error}): start it, or unset PREFECT_API_URL")


def ask_health(url: str, timeout_s: float) -> str | None:
    """Return why the API at `url` does not answer; None if it does, whether or not it lets us in."""
    handlers = [urllib.request.ProxyHandler({})] if urlsplit(url).hostname in _LOOPBACK else []
    try:
        urllib.request.build_opener(*handlers).open(f"{url.rstrip('/')}/health", timeout=timeout_s).close()
    except urllib.error.HTTPError:
        return None
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        # Something answers; whether its certificate is good is for Prefect to say, which has settings for that.
        return None if isinstance(reason, ssl.SSLCertVerificationError) else str(reason)
    return None


def last_error_line(log: str) -> str:
    """Return the last line of a log that names an exception, else its last line."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    errors = [line for line in lines if _EXCEPTION.match(line)]
    return (errors or lines or [""])[-1]


class TemporaryServer:
    """A Prefect server on loopback, which ends with this process.

    Its database is in `home`, an empty folder that it removes at its end: two servers never meet, and the user's own
    Prefect stays as it is.
    """

    def __init__(self, home: str) -> None:
        self.home = home
        self.auth = f"musicgen:{secrets.token_hex(16)}"  # other users of this machine are to stay out
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}/api"
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 (the server writes to it as long as it lives)
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "flows.temporary_server", str(port)],
            stdin=subprocess.PIPE,  # which ends the server when this process ends
            stdout=self._log,
            stderr=subprocess.STDOUT,
            env=os.environ
            | _TEMPORARY
            | {
                "PREFECT_HOME": home,
                "PREFECT_PROFILES_PATH": f"{home}/profiles.toml",
                "PREFECT_API_DATABASE_CONNECTION_URL": f"sqlite+aiosqlite:///{home}/prefect.db",
                "PREFECT_SERVER_API_AUTH_STRING": self.auth,
            },
        )

    def describe_end(self) -> str:
        """Return why the server has ended; empty if it runs."""
        code = self._process.poll()
        if code is None:
            return ""
        self._log.seek(0)
        return last_error_line(self._log.read().decode(errors="replace")) or f"exit code {code}"

    def stop(self) -> None:
        """End the server at once, and remove its home."""
        self._process.kill()
        self._process.wait()
        shutil.rmtree(self.home, ignore_errors=True)
