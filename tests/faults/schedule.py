"""Which faults hit a job, and when: a pure function of a seed, so that a schedule can be replayed."""

import random
from dataclasses import dataclass
from typing import Literal

Phase = Literal["start", "planned", "loading", "committed", "publishing"]
Layout = Literal["files", "parquet", "webdataset"]

LAYOUTS: tuple[Layout, ...] = ("files", "parquet", "webdataset")
SHARDS = 8

# The requests that a fault of the store can be aimed at; the job's manifest and melodies lie in the same bucket.
TARGETS = {
    "audio": r"PUT .*/audio/",
    "index": r"PUT .*/index/",
    "plan": r"PUT .*/plan\.json",
    "card": r"PUT .*/(README|metadata|report)",
    "melodies": r"GET .*/melodies/",
    "reads": r"GET ",
    "writes": r"PUT ",
    "all": "",
}


@dataclass(frozen=True)
class Moment:
    """`delay_s` after a phase of the driver begins; of `committed`, after the first `commits` shards are."""

    phase: Phase
    delay_s: float = 0.0
    commits: int = 0


@dataclass(frozen=True)
class Event:
    """One fault: its kind (tests/faults/injectors.py), when it begins, and how long it lasts or how often it hits."""

    kind: str
    moment: Moment
    seconds: float = 0.0
    target: str = "all"  # of TARGETS
    count: int | None = None  # requests that are hit; None: all within `seconds`


@dataclass(frozen=True)
class Schedule:
    """A job and the faults that it meets."""

    name: str
    layout: Layout
    events: tuple[Event, ...]
    poison: bool = False  # one row ends its process
    max_actors: int = 2
    min_actors: int = 2
    on_small_disk: bool = False  # the output is a tmpfs that fills up

    @property
    def records(self) -> bool:
        """Whether the job is recorded in Prefect: one that has no fault of Prefect does without, to be faster."""
        return any(kind.startswith("prefect_") for kind in self.kinds)

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of its faults, in order."""
        return tuple(event.kind for event in self.events)


@dataclass(frozen=True)
class _Kind:
    weight: float
    seconds: tuple[float, float] = (0.0, 0.0)
    targets: tuple[str, ...] = ("all",)
    count: tuple[int, int] | None = None
    phases: tuple[Phase, ...] = ("start", "planned", "loading", "committed", "committed", "publishing")


_WRITES = ("audio", "index", "plan", "card", "writes")
_MIDDLE: tuple[Phase, ...] = ("loading", "committed", "committed", "committed")
_RUNNING: tuple[Phase, ...] = ("planned", "loading", "committed", "committed", "publishing")

KINDS: dict[str, _Kind] = {
    "store_503": _Kind(3, (4, 12), ("all", "melodies", "audio", "writes", "reads")),
    "store_403": _Kind(2, (3, 10), ("all", "melodies", "writes")),
    "store_409": _Kind(1, targets=_WRITES, count=(1, 3)),
    "store_reset": _Kind(2, targets=("audio", "index", "melodies", "reads", "all"), count=(2, 6)),
    "store_cut": _Kind(1, targets=("reads", "melodies"), count=(1, 3)),
    "store_stall": _Kind(1, targets=("reads", "melodies"), count=(1, 2)),
    "store_lost_reply": _Kind(3, targets=_WRITES, count=(1, 3)),
    "store_hung_reply": _Kind(1, targets=_WRITES, count=(1, 1)),
    "store_throttle": _Kind(1, (4, 10), ("all", "audio")),
    "store_swallow": _Kind(2, targets=_WRITES, count=(1, 2)),
    "store_swallow_body": _Kind(2, targets=_WRITES, count=(1, 2)),
    "store_refused": _Kind(2, (4, 12)),
    "store_kill": _Kind(2, (2, 8)),
    "store_stop": _Kind(2, (4, 14)),
    "actor_kill": _Kind(3, phases=_MIDDLE),
    "actor_stop": _Kind(2, (6, 25), phases=_MIDDLE),
    "node_kill": _Kind(3, (3, 8), phases=_MIDDLE),
    "raylet_kill": _Kind(2, (3, 8), phases=_MIDDLE),
    "raylet_stop": _Kind(2, (4, 14), phases=_MIDDLE),
    "gcs_kill": _Kind(2, phases=_RUNNING),
    "driver_kill": _Kind(3),
    "driver_stop": _Kind(2, (4, 15), phases=_RUNNING),
    "driver_term": _Kind(2),
    "prefect_kill": _Kind(2, phases=_RUNNING),
    "prefect_stop": _Kind(2, (6, 20), phases=_RUNNING),
    # These plan for as long as the first driver takes to start, so they begin early to meet it while it works.
    "second_driver": _Kind(4, phases=("start", "start", "planned")),
    "superseding_job": _Kind(5, phases=("start", "planned", "planned", "loading")),
}


def draw_schedule(seed: int) -> Schedule:
    """The schedule of a seed: one to three faults, the first of each kind in turn; each 15th fills a small disk."""
    rng = random.Random(f"chaos {seed}")
    if seed % 15 == 7:
        layout = LAYOUTS[seed // 15 % len(LAYOUTS)]
        return Schedule(f"seed {seed}", layout, (Event("small_disk", Moment("start")),), on_small_disk=True)
    layout = LAYOUTS[seed % len(LAYOUTS)]
    names = list(KINDS)
    chosen = [names[(seed + seed // len(names)) % len(names)]]  # in another layout each time it is its turn
    for _ in range(rng.choice((0, 1, 1, 2))):
        name = rng.choices(names, [KINDS[name].weight for name in names])[0]
        if name not in chosen:
            chosen.append(name)
    events = tuple(draw_event(rng, name) for name in chosen)
    poison = rng.random() < 0.12
    lonely = rng.random() < 0.4 and not any(kind.startswith(("node", "raylet", "actor")) for kind in chosen)
    return Schedule(f"seed {seed}", layout, events, poison, 1 if lonely else 2, 1 if lonely else rng.choice((1, 2)))


def draw_event(rng: random.Random, name: str) -> Event:
    """A fault of this kind at some moment."""
    kind = KINDS[name]
    target = rng.choice(kind.targets)
    phase = rng.choice(_phases_of(target, kind.phases))
    spread = {"start": 5.0, "publishing": 0.2}.get(phase, 1.5)
    moment = Moment(phase, round(rng.uniform(0, spread), 1), rng.randint(1, SHARDS - 3) if phase == "committed" else 0)
    count = rng.randint(*kind.count) if kind.count else None
    return Event(name, moment, round(rng.uniform(*kind.seconds), 1), target, count)


def _phases_of(target: str, phases: tuple[Phase, ...]) -> tuple[Phase, ...]:
    """The phases in which a fault at this target can hit anything."""
    if target == "plan":
        return ("start",)
    if target in ("audio", "index"):
        return tuple(phase for phase in phases if phase != "publishing")
    return phases
