"""The messages that a run's process sends to the one that records it."""

import os
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from queue import SimpleQueue

from actors.messages import Progress
from flows.record_messages import FromRecorder, RunEnded, ToRecorder

_ORPHAN_LIMIT_S = 60.0  # to record that the driver has died


class Inbox:
    """Receives the parent's messages in a thread. Of progress only the latest is kept."""

    def __init__(self, connection: "Connection[FromRecorder, ToRecorder]"):
        self.on_end: Callable[[], None] | None = None  # called when the parent has gone; it ends the process
        self._connection = connection
        self._events: SimpleQueue[ToRecorder | None] = SimpleQueue()  # None: look at the progress
        self._progress: Progress | None = None
        threading.Thread(target=self._receive, name="inbox", daemon=True).start()

    def take(self) -> ToRecorder:
        """Wait for the next message."""
        while (event := self._events.get()) is None:
            progress, self._progress = self._progress, None
            if progress is not None:
                return progress
        return event

    def _receive(self) -> None:
        try:
            while True:
                message: ToRecorder = self._connection.recv()
                if isinstance(message, Progress):
                    self._progress = message
                    self._events.put(None)
                else:
                    self._events.put(message)
        except (EOFError, OSError):
            if self.on_end is not None:
                self.on_end()
            self._events.put(RunEnded("the process that drove the run has died", stopped=False))
            time.sleep(_ORPHAN_LIMIT_S)
            os._exit(1)
