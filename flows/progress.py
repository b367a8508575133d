"""The observer of a run, and the text of its progress."""

from typing import Protocol

from actors.messages import Progress


class RunObserver(Protocol):
    """Receives the progress of a run. Its methods are called in the thread that drives the run and return at once."""

    def announce(self, text: str) -> None:
        """Report one event, such as the cluster that the run uses."""

    def update(self, progress: Progress) -> None:
        """Report how many rows are made; called several times a second."""


class NoObserver:
    """An observer that ignores everything."""

    def announce(self, text: str) -> None:
        """Ignore the event."""

    def update(self, progress: Progress) -> None:
        """Ignore the progress."""


def format_duration(seconds: float) -> str:
    """Format seconds as `h:mm:ss`, or `m:ss` below an hour."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"


def describe_progress(progress: Progress) -> str:
    """Return one line: clips, failures, speed, and the time that is left."""
    text = f"{progress.settled}/{progress.rows} clips"
    if progress.failed:
        text += f", {progress.failed} failed"
    if not progress.generating_s:
        return f"{text}, actors are loading the model"
    text += f", {progress.rate:.2f} audio-s/s"
    return f"{text}, {format_duration(progress.eta_s)} to go" if progress.eta_s is not None else text
