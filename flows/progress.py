"""Who hears of a run's progress: the terminal, if the command line started it, and Prefect."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from actors.work import Progress

Listener = Callable[[Progress], None]

_listener: ContextVar[Listener | None] = ContextVar("listener", default=None)


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Within this block, runs of the flow in this thread tell `listener` how they progress."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)


def listener() -> Listener:
    """Whoever listens here, or nobody."""
    return _listener.get() or (lambda progress: None)
