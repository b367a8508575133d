"""The plan of a run as a value: its job, model and shards, and the JSON of `runs/<run>/plan.json`."""

import json
from bisect import bisect_right
from dataclasses import asdict, dataclass, field, fields
from datetime import datetime
from functools import cached_property
from itertools import accumulate

from musicgen.errors import StoreError
from musicgen.own_checksum import dump_json
from musicgen.shard import PlannedModel
from musicgen.value_types import JsonObject

PLAN_VERSION = 2
"""The version of plans that are written now. Since version 2 a plan has a number among all runs: `order`."""


@dataclass(frozen=True, slots=True)
class PlanPart:
    """A Parquet file of the run's normalized manifest; its row groups are shards."""

    path: str  # inside the dataset
    shard_rows: tuple[int, ...]  # of each row group
    shard_audio_s: tuple[float, ...]

    @property
    def row_groups(self) -> int:
        """The number of its shards."""
        return len(self.shard_rows)

    @property
    def rows(self) -> int:
        """The number of its rows."""
        return sum(self.shard_rows)

    @property
    def audio_s(self) -> float:
        """The seconds of audio of its rows."""
        return sum(self.shard_audio_s)


@dataclass(frozen=True)
class Plan:
    """A run: its rows, their shards, its model and encoding, which do not change any more.

    Its JSON is `runs/<run>/plan.json`. It has no secrets, and no rows, so it is small for any manifest.
    """

    run: str
    number: int
    job: JsonObject  # `Job` as JSON
    model: PlannedModel
    slots: int | str  # "auto": the first actor chooses (runs/<run>/slots.json)
    manifest_fingerprint: str
    parts: tuple[PlanPart, ...]
    rows: int  # to be made by this run
    audio_s: float
    longest_s: float  # the longest clip: how much cache a slot needs
    invalid: int  # rows refused while planning, in failures/<run>/plan.parquet
    carried: dict[str, str] = field(default_factory=dict)  # carried columns and their Arrow types, as text
    created_at: str = ""  # ISO 8601, UTC
    version: int = PLAN_VERSION
    csv: JsonObject | None = None  # the dialect of the manifest's CSV files; None: it has none
    order: int = 0  # its number among all runs of the dataset (runs/order/); 0: planned before version 2
    carried_names: dict[str, str] = field(default_factory=dict)  # the manifest's name of a carried column: the index's

    @property
    def shards(self) -> range:
        """The numbers of the run's shards."""
        return range(self._shard_ends[-1])

    def locate(self, shard: int) -> tuple[PlanPart, int]:
        """Return the part that holds a shard, and its row group there. Raises IndexError."""
        if not 0 <= shard < self._shard_ends[-1]:
            raise IndexError(f"run {self.run} has no shard {shard}; it has {len(self.shards)}")
        number = bisect_right(self._shard_ends, shard)
        part = self.parts[number]
        return part, shard - (self._shard_ends[number] - part.row_groups)

    @cached_property
    def _shard_ends(self) -> list[int]:
        """The number after each part's last shard."""
        return list(accumulate(part.row_groups for part in self.parts)) or [0]

    def shard_rows(self, shard: int) -> int:
        """Return the number of rows of a shard."""
        part, group = self.locate(shard)
        return part.shard_rows[group]

    def shard_audio_s(self, shard: int) -> float:
        """Return the seconds of audio of a shard's rows."""
        part, group = self.locate(shard)
        return part.shard_audio_s[group]

    def to_json(self) -> str:
        """Return the plan as JSON text, with its own checksum."""
        return dump_json(asdict(self)).decode()

    @classmethod
    def from_json(cls, text: str | bytes) -> "Plan":
        """Return the plan of a JSON text of this version or an earlier one; fields that are unknown are passed over.

        Raises `StoreError` if it is of a later version or damaged.
        """
        outline = PlanOutline.from_json(text)
        if outline.version > PLAN_VERSION:
            raise StoreError(describe_later_version(outline))
        document: JsonObject = json.loads(text)
        try:
            document["model"] = PlannedModel(**_known_fields(PlannedModel, document["model"]))
            document["parts"] = tuple(
                PlanPart(part["path"], tuple(part["shard_rows"]), tuple(part["shard_audio_s"]))
                for part in document["parts"]
            )
            return cls(**_known_fields(cls, document))
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise _damaged(error) from None


@dataclass(frozen=True, slots=True)
class PlanOutline:
    """What plans of all versions say: enough to tell whether a run is finished, and to close its shards."""

    run: str
    order: int
    version: int
    shard_rows: tuple[int, ...]  # the rows of each shard
    rows: int
    invalid: int
    manifest_files: tuple[str, ...]
    created_at: str = ""  # ISO 8601, UTC

    @classmethod
    def from_json(cls, text: str | bytes) -> "PlanOutline":
        """Return the outline of a plan's JSON text, of any version. Raises `StoreError` if it is damaged."""
        try:
            document: JsonObject = json.loads(text)
            parts = document["parts"]
            shard_rows = tuple(int(rows) for part in parts for rows in part["shard_rows"])
            return cls(
                run=str(document["run"]),
                order=int(document.get("order", 0)),
                version=int(document["version"]),
                shard_rows=shard_rows,
                rows=int(document.get("rows", sum(shard_rows))),
                invalid=int(document.get("invalid", 0)),
                manifest_files=tuple(str(part["path"]) for part in parts),
                created_at=str(document.get("created_at", "")),
            )
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise _damaged(error) from None


def describe_later_version(outline: PlanOutline) -> str:
    """Say that a run cannot be taken up by this release, and what to do."""
    return (
        f"run {outline.run} was planned by a later release (its plan has version {outline.version}, this release knows "
        f"versions up to {PLAN_VERSION}); finish it with that release"
    )


def _known_fields(kind: type, document: JsonObject) -> JsonObject:
    """Return the values of those fields that the dataclass has."""
    names = {known.name for known in fields(kind)}
    return {name: value for name, value in document.items() if name in names}


def _damaged(error: Exception) -> StoreError:
    return StoreError(f"it is damaged ({type(error).__name__}: {error})")


def format_time(time: datetime) -> str:
    """Format a time for a file of `runs/`: ISO 8601 with milliseconds."""
    return time.isoformat(timespec="milliseconds")


def parse_time(text: str) -> datetime | None:
    """Parse a time as `format_time` writes it; None for any other text."""
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        return None
    return time if time.tzinfo is not None else None
