"""The values that the driver and its generator actors exchange."""

from dataclasses import dataclass, field
from typing import Literal

from actors.actor_measures import ActorMeasures
from musicgen.errors import ErrorClass, MusicGenError
from musicgen.unfinished_clips import UnfinishedClips

_NOTHING = UnfinishedClips()
_NO_MEASURES = ActorMeasures()


class ActorsFailed(MusicGenError):
    """The run cannot go on: no actor starts, or shard after shard fails for the same reason.

    What is committed stays.
    """


class Stopped(MusicGenError):
    """The pool was asked to stop, and its actors have ended."""


class RunClosed(MusicGenError):
    """Another run has closed this run's shards; the message names it."""

    @classmethod
    def by(cls, run: str, closed_by: str) -> "RunClosed":
        """Return the error of a run whose shards `closed_by` has closed."""
        return cls(
            f"run {run} was closed by run {closed_by}, which has planned its missing rows anew; what is committed stays"
        )


class EngineFailed(MusicGenError):
    """The generation thread of an actor has ended by an exception; the actor has to be replaced."""


class NodeFault(MusicGenError):
    """The machine of an actor cannot do the work (its disk for temporary files is full, its memory is too small).

    Another machine may do it: no row or shard is at fault, and the store is not either.
    """


class SlotsLowered(MusicGenError):
    """An actor ran out of memory after its first clip, and has lowered the number of slots for those that follow it.

    It is replaced, so that all clips of a process come from one number of slots.
    """


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
    see whether the process survives them. With `harmless` it shows whether the machine works: the rows have a plain
    prompt in place of their own, no melody and no continuation, and nothing is written. `number` counts the attempts at
    this shard, from 0 in each driver. The `poison_rows` are recorded as failures without being made.
    """

    shard: int
    number: int = 0
    row_range: tuple[int, int] | None = None
    poison_rows: tuple[PoisonRow, ...] = ()
    harmless: bool = False

    @property
    def is_trial(self) -> bool:
        """Whether the attempt commits nothing."""
        return self.row_range is not None


@dataclass(frozen=True, slots=True)
class ShardReport:
    """The result of an attempt. `won` is False if another attempt had committed the shard before.

    `made` and `failed` are the rows of the commit that counts; for a trial, what it made without a commit. `closed_by`
    names the run that had closed the shard, if one had, and `committed_by` the attempt whose commit counts if `won` is
    False.
    """

    attempt: ShardAttempt
    won: bool
    made: int = 0
    failed: int = 0
    audio_s: float = 0.0
    closed_by: str | None = None
    committed_by: str = ""
    failures: tuple[tuple[str, int], ...] = ()  # class -> rows that failed in this attempt
    measures: ActorMeasures | None = None  # of its actor, at its end


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """A sign of life of an actor: what it has made and not committed yet, and whether generation moves.

    `stalled_s` is the time since the generation thread last made progress although it has work; 0 when it has none.
    `waiting_for` says in a few words what holds the actor up from outside (a store that does not answer), and
    `waiting_s` for how long; empty and 0 if nothing does. `clips` counts what the process has made since it started,
    committed or not, trials too. `unfinished` says how far the clips are that it is making.
    """

    uncommitted_rows: int = 0
    uncommitted_audio_s: float = 0.0
    stalled_s: float = 0.0
    peak_rss_mb: float = 0.0
    waiting_for: str = ""
    waiting_s: float = 0.0
    clips: int = 0
    unfinished: UnfinishedClips = _NOTHING
    measures: ActorMeasures = _NO_MEASURES


@dataclass(frozen=True, slots=True)
class StartedActor:
    """An actor whose process has begun: Ray has found room for it, and it is about to load its model."""

    node: str  # Ray's id of the node
    host: str
    pid: int


@dataclass(frozen=True, slots=True)
class LoadedActor:
    """An actor that has loaded its model: where it runs and what it computes with."""

    host: str
    pid: int
    engine: str  # the engine's fingerprint
    slots: int
    load_s: float
    compile_s: float = 0.0  # of these, in the compiler of the CPU kernels


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run is. Rows and seconds count what is committed, `uncommitted_` what is made and not committed yet.

    `made`, `failed` and `audio_s` are this driver's own; `rows_elsewhere` are those of shards that another driver has
    committed.
    """

    rows: int
    shards: int
    shards_done: int = 0
    made: int = 0
    failed: int = 0
    audio_s: float = 0.0
    rows_elsewhere: int = 0
    uncommitted_rows: int = 0
    uncommitted_audio_s: float = 0.0
    unfinished: UnfinishedClips = _NOTHING  # clips that are being made, by the decode steps that are done
    actors: int = 0
    crashes: int = 0  # actors that ended by themselves
    preemptions: int = 0  # actors whose node was taken, and said so
    losses: int = 0  # actors that were lost with their node, or ended for lack of memory
    kills: int = 0  # actors that the driver ended, because they did not answer or stood still
    generating_s: float = 0.0  # since the first actor was ready
    waiting_for: tuple[str, ...] = ()  # what holds the run up, one phrase each; to be shown once it lasts
    failures: tuple[tuple[str, int], ...] = ()  # class -> rows of this driver's commits that failed
    retries: int = 0  # attempts at shards that were tried before
    measures: ActorMeasures = _NO_MEASURES  # of all actors, and of those that have ended their counts

    @property
    def settled(self) -> int:
        """Rows made or failed, whether committed or not, and by whichever driver."""
        return min(self.rows, self.made + self.failed + self.rows_elsewhere + self.uncommitted_rows)

    @property
    def done(self) -> float:
        """Rows settled, and of those that are being made the part that is done."""
        return min(float(self.rows), self.settled + self.unfinished.clips)

    @property
    def share(self) -> float:
        """The part of the run that is done, from 0 to 1."""
        return self.done / self.rows if self.rows else 1.0

    @property
    def done_audio_s(self) -> float:
        """Seconds of audio made by this driver, committed or not; clips count by the part that is done."""
        return self.audio_s + self.uncommitted_audio_s + self.unfinished.audio_s

    @property
    def rate(self) -> float:
        """Seconds of audio made per second since the first actor was ready."""
        return self.done_audio_s / self.generating_s if self.generating_s > 0 else 0.0

    @property
    def eta_s(self) -> float | None:
        """Seconds to go at the rate so far; None as long as nothing is done."""
        done_here = self.done - self.rows_elsewhere
        return (self.rows - self.done) * self.generating_s / done_here if done_here > 0 else None


@dataclass(frozen=True)
class GenerationResult:
    """What a pool has made, and on which actors."""

    progress: Progress
    given_up: dict[int, str]  # shard -> reason
    loaded_actors: tuple[LoadedActor, ...]  # every actor that was ready once
    seconds: float
    peak_rss_mb: float
    cluster: str = ""  # where it ran, in one line
    cluster_start_s: float = 0.0  # that starting or joining Ray took
    set_aside: dict[str, str] = field(default_factory=dict)  # host of a node that was given up -> why
    actor_s: float = 0.0  # that actors were held, all together
    gpus_per_actor: float = 0.0
    timeline: tuple[tuple[float, float], ...] = ()  # (seconds since the start, seconds of audio made until then)


@dataclass(frozen=True, slots=True)
class RunEvent:
    """What has become of a shard or an actor, in a line."""

    level: Literal["info", "warning"]
    message: str
    actor: int | None = None
    shard: int | None = None


# Why an actor is gone: its process ended; its generation thread ended by an exception; `load_model` raised; its node
# was taken and said so; its node is gone or out of reach; Ray ended it for lack of memory; it ran out of memory with
# its slots, and the next one has fewer; the driver ended it.
DeathCause = Literal["crash", "engine", "error", "preempted", "node", "memory", "slots", "killed"]
