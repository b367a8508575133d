"""Values that a plan, an actor and the dataset share: the rows of one shard, and the model they were planned for."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from musicgen.request import Request

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class ShardRows:
    """The rows of one shard: position i is the same row in every field."""

    run: str
    shard: int
    requests: list[Request]  # resolved: `seed` is the effective seed
    keys: list[str]
    sources: list[str]  # file and row, for failures
    carried: "pa.Table"  # the carried columns, under their names in the index

    def __len__(self) -> int:
        return len(self.keys)


@dataclass(frozen=True, slots=True)
class PlannedModel:
    """The checkpoint that a run was planned for; every actor checks its `identity`."""

    name: str
    revision: str | None
    identity: str
    frame_rate: float
    family: str = "musicgen"

    @property
    def public_name(self) -> str:
        """The name without the folder or bucket that holds it."""
        return strip_folder(self.name)


def strip_folder(name: str) -> str:
    """Return a checkpoint's name without the folder or bucket that holds it, which may be private."""
    is_hub_name = name.count("/") == 1 and not name.startswith(("/", ".", "~"))
    return name if is_hub_name or "/" not in name else name.rstrip("/").rsplit("/", 1)[-1]
