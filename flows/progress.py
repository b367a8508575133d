"""What a run reports while it goes on, and how that reads."""

from typing import Protocol

from actors.messages import Progress


class RunObserver(Protocol):
    """Is told how a run goes on. Its methods are called from the thread that drives the run, and return at once."""

    def announce(self, text: str) -> None:
        """Report one event, such as the cluster that the run uses."""

    def update(self, progress: Progress) -> None:
        """Report how many rows are made; called several times a second."""


class NoObserver:
    """Ignores everything: for runs that nobody watches."""

    def announce(self, text: str) -> None:
        """Ignore the event."""

    def update(self, progress: Progress) -> None:
        """Ignore the progress."""


def format_duration(seconds: float) -> str:
    """Seconds as `h:mm:ss`, or `m:ss` below an hour."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"


def describe_progress(progress: Progress) -> str:
    """One line: clips, failures, speed, and the time that is left."""
    text = f"{progress.settled}/{progress.rows} clips"
    if progress.failed:
        text += f", {progress.failed} failed"
    if not progress.generating_s:
        return f"{text}, actors are loading the model"
    text += f", {progress.rate:.2f} audio-s/s"
    return f"{text}, {format_duration(progress.eta_s)} to go" if progress.eta_s is not None else text
