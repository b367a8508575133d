"""The process that records a run in Prefect: `python -m flows.record_process FD`, a child of `musicgen run`.

Its flow run has the run's name, job and tasks; each task ends when the parent says that the stage has ended. FD is the
socket of `flows.prefect_record`. Without a parent it ends the flow run and itself.
"""

import os
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path

from flows.prefect_server import TemporaryServer
from flows.prefect_watch import PrefectWatch
from flows.record_inbox import Inbox
from flows.record_messages import FromRecorder, RunPlanned, ToRecorder


def main(fd: int) -> None:
    """Record one run."""
    connection: Connection[FromRecorder, ToRecorder] = Connection(fd)
    sending = threading.Lock()

    def send(message: FromRecorder) -> None:
        with sending:
            connection.send(message)

    inbox = Inbox(connection)
    inbox.on_end = lambda: os._exit(0)  # nothing is planned yet
    with _connect_to_api(inbox) as (url, server):
        watch = PrefectWatch(url, send, server.describe_end if server else lambda: "")
        watch.start(temporary=server is not None)
        planned = inbox.take()
        assert isinstance(planned, RunPlanned), planned
        if server is None:
            inbox.on_end = None  # the flow run is ended first
        from flows.record_flow import record_run

        watch.answers.wait()
        try:
            record_run(planned, inbox, watch)
        except Exception as error:
            watch.report_error(error)


@contextmanager
def _connect_to_api(inbox: Inbox) -> Iterator[tuple[str, TemporaryServer | None]]:
    """Use the API that the environment or a profile of Prefect names, else a temporary server."""
    home = None
    if not os.environ.get("PREFECT_API_URL") and not _user_home().exists():
        home = os.environ["PREFECT_HOME"] = tempfile.mkdtemp(
            prefix="musicgen-prefect-"
        )  # else Prefect makes the user's
    from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, PREFECT_HOME, temporary_settings

    if configured := PREFECT_API_URL.value():
        yield configured, None
        return
    server = TemporaryServer(home or tempfile.mkdtemp(prefix="musicgen-prefect-"))

    def end() -> None:
        server.stop()
        os._exit(0)

    inbox.on_end = end
    settings = {PREFECT_API_URL: server.url, PREFECT_API_AUTH_STRING: server.auth, PREFECT_HOME: Path(server.home)}
    os.environ["no_proxy"] = os.environ["NO_PROXY"] = "127.0.0.1"
    try:
        with temporary_settings(settings):
            yield server.url, server
    finally:
        server.stop()


def _user_home() -> Path:
    return Path(os.environ.get("PREFECT_HOME", "~/.prefect")).expanduser()


if __name__ == "__main__":
    main(int(sys.argv[1]))
