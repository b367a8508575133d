"""What crosses between the driver and a generator actor."""

from dataclasses import dataclass, field
from typing import Literal

from musicgen.errors import ErrorClass, MusicGenError


class ActorsFailed(MusicGenError):
    """The run cannot go on: no actor starts, or shard after shard fails for the same reason. Nothing made is lost."""


class Stopped(MusicGenError):
    """The pool was told to stop, and its actors have ended."""


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
    """A sign of life: what is settled of the shards in hand, and whether generation moves.

    `stalled_s` is the time since the generation thread last showed progress although it has work; 0 when idle.
    """

    rows_in_hand: int = 0
    audio_s_in_hand: float = 0.0
    clips: int = 0  # since the actor started
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


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a run stands. Rows and seconds count what is committed; `_in_hand` what is made and not committed yet."""

    rows: int
    shards: int
    shards_done: int = 0
    made: int = 0
    failed: int = 0
    audio_s: float = 0.0
    rows_in_hand: int = 0
    audio_s_in_hand: float = 0.0
    actors: int = 0
    crashes: int = 0
    preemptions: int = 0
    generating_s: float = 0.0  # since the first actor was ready

    @property
    def settled(self) -> int:
        """Rows made or failed, committed or nearly so."""
        return min(self.rows, self.made + self.failed + self.rows_in_hand)

    @property
    def rate(self) -> float:
        """Seconds of audio per second."""
        return (self.audio_s + self.audio_s_in_hand) / self.generating_s if self.generating_s > 0 else 0.0

    @property
    def eta_s(self) -> float | None:
        """Seconds to go at the rate so far; None as long as nothing is made."""
        return (self.rows - self.settled) * self.generating_s / self.settled if self.settled else None


@dataclass(frozen=True)
class Result:
    """What a pool's work came to."""

    progress: Progress
    given_up: dict[int, str]  # shard -> reason
    loaded: tuple[Loaded, ...]  # every actor that worked
    seconds: float
    peak_rss_mb: float
    cluster: str = ""  # where it ran, in one line


Death = Literal["crash", "engine", "preempted", "silent"]
