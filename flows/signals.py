"""Stopping: SIGTERM as Ctrl-C, and work that ends itself when either comes."""

import contextvars
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from types import FrameType
from typing import TypeVar

_T = TypeVar("_T")
_PATIENCE_S = 15.0


@contextmanager
def raise_on_sigterm() -> Iterator[None]:
    """Raise KeyboardInterrupt in the main thread on SIGTERM. Elsewhere than in the main thread it does nothing."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(signum: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def run_interruptibly(work: Callable[[], _T], stop: Callable[[], None]) -> _T:
    """Run `work` in a thread; whatever signal interrupts the wait for it, call `stop` and let it end first.

    Ray's calls run native code that knows KeyboardInterrupt and swallows any other exception of a signal handler, such
    as the one that Prefect's SIGTERM raises. Waiting in plain Python, the main thread hears all of them.
    """
    done: Future[_T] = Future()

    def run() -> None:
        try:
            done.set_result(work())
        except BaseException as error:
            done.set_exception(error)

    thread = threading.Thread(target=contextvars.copy_context().run, args=(run,), name="work", daemon=True)
    thread.start()
    try:
        while thread.is_alive():
            thread.join(0.2)
    except BaseException:
        stop()
        deadline = time.monotonic() + _PATIENCE_S
        while thread.is_alive() and time.monotonic() < deadline:
            with suppress(BaseException):  # a second signal must not take Ray away from under its actors
                thread.join(0.2)
        raise
    return done.result()
