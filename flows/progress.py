"""Who hears of a run's progress: the terminal, if the command line started it, and Prefect."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from actors.messages import Progress

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


def clock(seconds: float) -> str:
    """1:02:03, 2:03."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"


def line(progress: Progress) -> str:
    """A progress in words."""
    text = f"{progress.settled}/{progress.rows} clips"
    if progress.failed:
        text += f", {progress.failed} failed"
    if not progress.generating_s:
        return f"{text}, actors are loading the model"
    text += f", {progress.rate:.2f} audio-s/s"
    return f"{text}, {clock(progress.eta_s)} to go" if progress.eta_s is not None else text
