"""The plan of a run as a value: its job, model and shards, and the JSON of `runs/<run>/plan.json`."""

import json
from bisect import bisect_right
from dataclasses import asdict, dataclass, field
from datetime import datetime
from functools import cached_property
from itertools import accumulate

from musicgen.errors import StoreError
from musicgen.shard import PlannedModel
from musicgen.value_types import JsonObject

PLAN_VERSION = 1


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
        """Return the plan as JSON text."""
        return json.dumps(asdict(self), ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str | bytes) -> "Plan":
        """Return the plan of a JSON text. Raises `StoreError` if it is damaged or of another version."""
        try:
            document = json.loads(text)
            if document["version"] != PLAN_VERSION:
                raise StoreError(
                    f"the plan of run {document.get('run')} has version {document['version']}; this program writes "
                    f"{PLAN_VERSION}"
                )
            document["model"] = PlannedModel(**document["model"])
            document["parts"] = tuple(
                PlanPart(part["path"], tuple(part["shard_rows"]), tuple(part["shard_audio_s"]))
                for part in document["parts"]
            )
            return cls(**document)
        except (ValueError, TypeError, KeyError) as error:
            raise StoreError(
                f"a plan.json in the dataset is damaged ({error}); remove that run's folder to plan it anew"
            ) from None


def format_time(time: datetime) -> str:
    """Format a time for a file of `runs/`: ISO 8601 with milliseconds."""
    return time.isoformat(timespec="milliseconds")
