"""What crosses between the driver and a generator actor."""

from dataclasses import dataclass, field
from typing import Literal

from musicgen.errors import ErrorClass, MusicGenError


class ActorsFailed(MusicGenError):
    """The run cannot go on: no actor starts, or shard after shard fails for the same reason. Nothing made is lost."""


class EngineFailed(MusicGenError):
    """The generation thread of an actor has ended by an exception; the actor has to be replaced."""


@dataclass(frozen=True, slots=True)
class Condemned:
    """A row that is known to end its process: not tried again, but recorded in failures/."""

    position: int
    error_class: ErrorClass
    reason: str
    attempts: int


@dataclass(frozen=True, slots=True)
class Work:
    """One attempt at a shard.

    With `rows` (first, end) it is a trial: those positions are made and nothing is committed, only to see whether the
    process survives them. `attempt` counts from 0 in this driver.
    """

    shard: int
    attempt: int = 0
    rows: tuple[int, int] | None = None
    condemned: tuple[Condemned, ...] = ()

    @property
    def trial(self) -> bool:
        """Nothing is committed."""
        return self.rows is not None


@dataclass(frozen=True, slots=True)
class ShardReport:
    """What an attempt came to. `won` is False when another attempt had committed the shard before."""

    work: Work
    won: bool
    made: int = 0
    failed: int = 0
    audio_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Pulse:
    """A sign of life with running totals since the actor started.

    `stalled_s` is the time since the generation thread last showed progress although it has work; 0 when idle.
    """

    clips: int = 0
    audio_s: float = 0.0
    stalled_s: float = 0.0
    peak_rss_mb: float = 0.0


@dataclass(frozen=True, slots=True)
class Loaded:
    """An actor that is ready: where it is and what it computes with."""

    host: str
    pid: int
    engine: str
    slots: int
    load_s: float
    versions: dict[str, str] = field(default_factory=dict)


Death = Literal["crash", "engine", "preempted", "silent"]
