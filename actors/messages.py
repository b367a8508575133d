"""The values that the driver and its generator actors exchange."""

from dataclasses import dataclass
from typing import Literal

from musicgen.errors import ErrorClass, MusicGenError


class ActorsFailed(MusicGenError):
    """The run cannot go on: no actor starts, or shard after shard fails for the same reason.

    What is committed stays.
    """


class Stopped(MusicGenError):
    """The pool was asked to stop, and its actors have ended."""


class EngineFailed(MusicGenError):
    """The generation thread of an actor has ended by an exception; the actor has to be replaced."""


@dataclass(frozen=True, slots=True)
class PoisonRow:
    """A row that is known to end its process. It is not tried again, but recorded in failures/."""

    position: int
    error_class: ErrorClass
    reason: str
    attempts: int


@dataclass(frozen=True, slots=True)
class ShardAttempt:
    """One attempt at a shard: what an actor is given to do.

    With `row_range` (first, end) it is a trial: the rows at those positions are made and nothing is committed, only to
    see whether the process survives them. `number` counts the attempts at this shard, from 0 in each driver. The
    `poison_rows` are recorded as failures without being made.
    """

    shard: int
    number: int = 0
    row_range: tuple[int, int] | None = None
    poison_rows: tuple[PoisonRow, ...] = ()

    @property
    def is_trial(self) -> bool:
        """Whether the attempt commits nothing."""
        return self.row_range is not None


@dataclass(frozen=True, slots=True)
class ShardReport:
    """The result of an attempt. `won` is False if another attempt had committed the shard before."""

    attempt: ShardAttempt
    won: bool
    made: int = 0
    failed: int = 0
    audio_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """A sign of life of an actor: what it has made and not committed yet, and whether generation moves.

    `stalled_s` is the time since the generation thread last made progress although it has work; 0 when it has none.
    """

    uncommitted_rows: int = 0
    uncommitted_audio_s: float = 0.0
    stalled_s: float = 0.0
    peak_rss_mb: float = 0.0


@dataclass(frozen=True, slots=True)
class LoadedActor:
    """An actor that has loaded its model: where it runs and what it computes with."""

    host: str
    pid: int
    engine: str  # the engine's fingerprint
    slots: int
    load_s: float


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run is. Rows and seconds count what is committed, `uncommitted_` what is made and not committed yet."""

    rows: int
    shards: int
    shards_done: int = 0
    made: int = 0
    failed: int = 0
    audio_s: float = 0.0
    uncommitted_rows: int = 0
    uncommitted_audio_s: float = 0.0
    actors: int = 0
    crashes: int = 0
    preemptions: int = 0
    generating_s: float = 0.0  # since the first actor was ready

    @property
    def settled(self) -> int:
        """Rows made or failed, whether committed or not."""
        return min(self.rows, self.made + self.failed + self.uncommitted_rows)

    @property
    def rate(self) -> float:
        """Seconds of audio made per second."""
        return (self.audio_s + self.uncommitted_audio_s) / self.generating_s if self.generating_s > 0 else 0.0

    @property
    def eta_s(self) -> float | None:
        """Seconds to go at the rate so far; None as long as nothing is made."""
        return (self.rows - self.settled) * self.generating_s / self.settled if self.settled else None


@dataclass(frozen=True)
class GenerationResult:
    """What a pool has made, and on which actors."""

    progress: Progress
    given_up: dict[int, str]  # shard -> reason
    loaded_actors: tuple[LoadedActor, ...]  # every actor that was ready once
    seconds: float
    peak_rss_mb: float
    cluster: str = ""  # where it ran, in one line


DeathCause = Literal["crash", "engine", "preempted", "silent"]
