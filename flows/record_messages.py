"""What `musicgen run` and the process that records it in Prefect tell each other."""

from collections.abc import Mapping
from dataclasses import dataclass

from actors.messages import Progress
from flows.summary import Summary


@dataclass(frozen=True, slots=True)
class RunPlanned:
    """The run is planned and about to be generated; `job` is its job as JSON values."""

    run: str
    job: dict[str, object]


@dataclass(frozen=True, slots=True)
class RunGenerated:
    """All shards are settled; None if there was none to make."""

    progress: Progress | None


@dataclass(frozen=True, slots=True)
class RunPublished:
    """The dataset is published; `failures` are rows of failures/."""

    summary: Summary
    failures: list[Mapping[str, object]]


@dataclass(frozen=True, slots=True)
class RunEnded:
    """The run has ended before its end: by an error, or stopped by a signal, a cancellation or a limit."""

    reason: str
    stopped: bool


@dataclass(frozen=True, slots=True)
class Notice:
    """A line for the user."""

    text: str


@dataclass(frozen=True, slots=True)
class Connected:
    """Prefect answers. `temporary`: its server was started for this run and ends with it, so nobody reads the end."""

    temporary: bool


@dataclass(frozen=True, slots=True)
class Unreachable:
    """Prefect does not answer any more, so that there is nothing to wait for."""

    text: str


@dataclass(frozen=True, slots=True)
class CancelRequested:
    """The run was cancelled in Prefect."""


ToRecorder = RunPlanned | Progress | RunGenerated | RunPublished | RunEnded
FromRecorder = Notice | Connected | Unreachable | CancelRequested
