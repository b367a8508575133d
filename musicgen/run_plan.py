"""The plan of a run as a value: its job, model and shards, and the JSON of `runs/<run>/plan.json`."""

import json
from bisect import bisect_right
from dataclasses import asdict, dataclass, field
from datetime import datetime
from functools import cached_property
from itertools import accumulate
from typing import Any

from musicgen.errors import StoreError
from musicgen.shard import PlannedModel

PLAN_VERSION = 1


@dataclass(frozen=True, slots=True)
class PlanPart:
    """One Parquet file of the run's normalized manifest; its row groups are shards."""

    path: str  # inside the dataset
    shard_rows: tuple[int, ...]  # of each row group
    shard_audio_s: tuple[float, ...]

    @property
    def row_groups(self) -> int:
        """How many shards it holds."""
        return len(self.shard_rows)

    @property
    def rows(self) -> int:
        """How many rows it holds."""
        return sum(self.shard_rows)

    @property
    def audio_s(self) -> float:
        """How many seconds of audio they ask for."""
        return sum(self.shard_audio_s)


@dataclass(frozen=True)
class Plan:
    """A run, frozen: which rows, in which shards, with which model and encoding.

    `runs/<run>/plan.json` is its JSON. It holds no rows and no secrets, so it stays small for any manifest.
    """

    run: str
    number: int
    job: dict[str, Any]
    model: PlannedModel
    slots: int | str  # "auto" until the first actor has settled it
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
        """The part that holds a shard, and the row group in it."""
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
        """How many rows a shard holds."""
        part, group = self.locate(shard)
        return part.shard_rows[group]

    def shard_audio_s(self, shard: int) -> float:
        """How many seconds of audio a shard asks for."""
        part, group = self.locate(shard)
        return part.shard_audio_s[group]

    def to_json(self) -> str:
        """The plan as JSON text."""
        return json.dumps(asdict(self), ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str | bytes) -> "Plan":
        """A plan back from its JSON. Raises `StoreError` if it is not one of ours."""
        try:
            data = json.loads(text)
            if data["version"] != PLAN_VERSION:
                raise StoreError(
                    f"the plan of run {data.get('run')} has version {data['version']}; this program writes "
                    f"{PLAN_VERSION}"
                )
            data["model"] = PlannedModel(**data["model"])
            data["parts"] = tuple(
                PlanPart(part["path"], tuple(part["shard_rows"]), tuple(part["shard_audio_s"]))
                for part in data["parts"]
            )
            return cls(**data)
        except (ValueError, TypeError, KeyError) as error:
            raise StoreError(
                f"a plan.json in the dataset is damaged ({error}); remove that run's folder to plan it anew"
            ) from None


def format_time(time: datetime) -> str:
    """Format a time for a file of `runs/`: ISO 8601 with milliseconds."""
    return time.isoformat(timespec="milliseconds")
