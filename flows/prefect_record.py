"""Records a run in Prefect from a process of its own, which can neither slow the run down nor change how it ends.

Prefect's client retries for minutes, waits without limit when an interpreter ends, and writes to the terminal. So
`musicgen run` never calls it: it tells a child process (flows/record_process.py) what has happened, without waiting for
it, and the child's flow run follows.
"""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.connection import Connection
from queue import SimpleQueue
from types import TracebackType

from actors.messages import Progress
from flows.prefect_server import last_error_line
from flows.record_messages import (
    CancelRequested,
    Connected,
    FromRecorder,
    Notice,
    RunEnded,
    RunGenerated,
    RunPlanned,
    RunPublished,
    ToRecorder,
    Unreachable,
)
from flows.summary import Summary
from musicgen.errors import LimitReached, first_line
from musicgen.job import Job

_UPDATE_INTERVAL_S = 10.0
_PUBLISHED_WAIT_S = 30.0  # at the end of a run, for a Prefect that answers
_ENDED_WAIT_S = 3.0  # the same, where the run was stopped or has failed
_CLOSE_WAIT_S = 3.0
_INTERRUPTED = "stopped; what is committed is safe. Run the same job again to go on."


class PrefectRecord:
    """The record of one run. An exception that leaves it ends the run in Prefect too.

    `announce` gets lines for the user, from another thread.
    """

    def __init__(self, job: Job, run: str, announce: Callable[[str], None], verbose: bool = False):
        self._announce = announce
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 (the child writes to it as long as it lives)
        self._socket, theirs = socket.socketpair()
        self._connection = Connection(os.dup(self._socket.fileno()))
        self._outbox: SimpleQueue[ToRecorder] = SimpleQueue()
        self._outbox.put(RunPlanned(run, job.model_dump(mode="json")))
        self._next_update = 0.0
        self._nothing_to_wait_for = threading.Event()
        self._closing = False
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "flows.record_process", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=None if verbose else self._log,
                stderr=None if verbose else self._log,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
                start_new_session=True,  # Ctrl-C in a terminal must not end it before it has recorded the end
            )
        for work in (self._send_all, self._receive_all):
            threading.Thread(target=work, name="prefect-record", daemon=True).start()

    def __enter__(self) -> "PrefectRecord":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            stopped = not isinstance(error, Exception) or isinstance(error, LimitReached)
            reason = first_line(error) if isinstance(error, Exception) else _INTERRUPTED
            self._outbox.put(RunEnded(reason, stopped))
        self._close(_PUBLISHED_WAIT_S if error is None else _ENDED_WAIT_S)

    def update(self, progress: Progress) -> None:
        """Pass progress on when it is due; while the child has not taken the last one, this one is dropped."""
        now = time.monotonic()
        if now >= self._next_update and self._outbox.empty():
            self._next_update = now + _UPDATE_INTERVAL_S
            self._outbox.put(progress)

    def generated(self, progress: Progress | None) -> None:
        """End the task `generate`."""
        self._outbox.put(RunGenerated(progress))

    def published(self, summary: Summary, failures: Sequence[Mapping[str, object]]) -> None:
        """End the task `publish`, and with it the flow run."""
        self._outbox.put(RunPublished(summary, list(failures)))

    def _close(self, wait_s: float) -> None:
        """Give a Prefect that answers some seconds to record the end, and end the child."""
        deadline = time.monotonic() + wait_s
        while self._process.poll() is None and not self._nothing_to_wait_for.is_set() and time.monotonic() < deadline:
            time.sleep(0.05)
        self._closing = True
        self._socket.shutdown(socket.SHUT_RDWR)  # the child's sign to end; closing alone would not wake our threads
        try:
            self._process.wait(_CLOSE_WAIT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._socket.close()

    def _send_all(self) -> None:
        try:
            while True:
                self._connection.send(self._outbox.get())  # waits for a child that is stopped, and the run does not
        except OSError:
            pass  # the child has ended; the other thread says so

    def _receive_all(self) -> None:
        try:
            while True:
                self._handle(self._connection.recv())
        except (EOFError, OSError):
            self._nothing_to_wait_for.set()
        code = self._process.wait()
        if code and not self._closing:
            self._log.seek(0)
            reason = last_error_line(self._log.read().decode(errors="replace")) or f"exit code {code}"
            self._announce(f"the record of this run in Prefect broke off ({reason}); the run goes on without it")

    def _handle(self, message: FromRecorder) -> None:
        match message:
            case Notice(text):
                self._announce(text)
            case Unreachable(text):
                self._nothing_to_wait_for.set()
                self._announce(text)
            case Connected(temporary=True):
                self._nothing_to_wait_for.set()
            case Connected():
                self._nothing_to_wait_for.clear()
            case CancelRequested():
                self._announce("cancelled in Prefect")
                os.kill(os.getpid(), signal.SIGTERM)
