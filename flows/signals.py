"""Handles the signals that stop a command: SIGTERM acts like Ctrl-C, and a run ends its actors first."""

import contextvars
import signal
import threading
import time
from asyncio import CancelledError
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from types import FrameType
from typing import TypeVar

_T = TypeVar("_T")
_END_TIMEOUT_S = 15.0  # of work after `stop` was called


@contextmanager
def raise_on_sigterm() -> Iterator[None]:
    """Raise KeyboardInterrupt in the main thread on SIGTERM. Elsewhere than in the main thread it does nothing."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    previous_handler = signal.signal(signal.SIGTERM, _interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous_handler)


def _interrupt(signum: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def run_interruptibly(work: Callable[[], _T], stop: Callable[[], None]) -> _T:
    """Run `work` in a thread. If a signal interrupts the wait for it, call `stop` and wait until it has ended.

    A Prefect deployment with a concurrency limit cancels the thread of a flow when it cannot reach the server to renew
    the limit's lease. Work goes on then: Prefect stands beside a run, and two drivers of one job do each other no harm.

    Ray's calls run native code that passes KeyboardInterrupt on and swallows any other exception of a signal handler,
    such as the one that Prefect raises on SIGTERM. A main thread that waits in plain Python gets all of them.
    """
    outcome: Future[_T] = Future()
    ended = threading.Event()  # `Thread.join` takes a thread for ended, before Python 3.13, when a signal interrupts it

    def run_work() -> None:
        try:
            outcome.set_result(work())
        except BaseException as error:
            outcome.set_exception(error)
        ended.set()

    threading.Thread(target=contextvars.copy_context().run, args=(run_work,), name="work", daemon=True).start()
    with _pass_on_one_signal():  # a second one must not take Ray away from under its actors
        try:
            while not ended.is_set():
                with suppress(CancelledError):  # a cancellation by the user comes as a signal
                    ended.wait(0.2)
        except BaseException:
            stop()
            deadline = time.monotonic() + _END_TIMEOUT_S
            while not ended.is_set() and time.monotonic() < deadline:
                with suppress(BaseException):  # nor a cancellation
                    ended.wait(0.2)
            raise
    return outcome.result()


@contextmanager
def _pass_on_one_signal() -> Iterator[None]:
    """Pass the first Ctrl-C or SIGTERM to its handler, and ignore others. Elsewhere than in the main thread: nothing.

    A handler that is taken out when the first signal comes would leave a moment for the second. Only Python's own and
    that of `raise_on_sigterm` are wrapped: Prefect takes a SIGTERM for a crash, and not for a cancellation that it has
    announced itself, if its handler is not in place.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    is_first = True

    def pass_on(signum: int, frame: FrameType | None) -> None:
        nonlocal is_first
        if is_first:
            is_first = False
            handlers[signum](signum, frame)

    current = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    wrapped = (signal.default_int_handler, _interrupt)
    handlers = {int(number): handler for number, handler in current.items() if callable(handler) and handler in wrapped}
    try:
        for number in handlers:
            signal.signal(number, pass_on)
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
