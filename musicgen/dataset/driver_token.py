"""The object by which a living driver of a run is known: where it runs, since when, and which shards it is making."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime

from musicgen.dataset import paths
from musicgen.own_checksum import dump_json
from musicgen.process_name import has_ended
from musicgen.run_plan import parse_time
from musicgen.storage import Store
from musicgen.value_types import JsonObject

HEARD_WITHIN_S = 90.0  # a token is written every few seconds; clocks of machines differ by less than this


@dataclass(frozen=True, slots=True)
class DriverToken:
    """What a driver writes every few seconds. Times are ISO 8601 in UTC, by the driver's clock."""

    shards: tuple[int, ...] = ()  # those it is making or will take next
    writes: int = 0  # how often it was written, so that its content changes
    host: str = ""
    started_at: str = ""
    written_at: str = ""
    process: str = ""  # names the process on its machine (musicgen/process_name.py)
    progress: JsonObject = field(default_factory=dict)  # how far it is, as its terminal shows it; empty: not begun

    def to_json(self) -> bytes:
        """Return the stored document."""
        return dump_json(asdict(self))

    @classmethod
    def from_json(cls, content: bytes) -> "DriverToken":
        """Parse a stored document of this or another release. Raises `ValueError`, `KeyError` or `TypeError`."""
        document = json.loads(content)
        return cls(
            tuple(int(shard) for shard in document["shards"]),
            int(document.get("writes", 0)),
            str(document.get("host", "")),
            str(document.get("started_at", "")),
            str(document.get("written_at", "")),
            str(document.get("process", "")),
            progress if isinstance(progress := document.get("progress"), dict) else {},
        )

    def is_alive(self, now: datetime) -> bool:
        """Whether the driver was heard of a short while ago, and is no process of this machine that has ended."""
        written_at = parse_time(self.written_at)
        if written_at is None or abs((now - written_at).total_seconds()) >= HEARD_WITHIN_S:
            return False
        return not has_ended(self.process)


def read_driver_tokens(store: Store, run: str) -> list[DriverToken]:
    """Read the tokens of a run's drivers: of those at work, and of those that ended without deleting theirs."""
    folder = paths.driver_token(run, "").rstrip("/")
    tokens = []
    for file_info in store.list(folder):
        try:
            tokens.append(DriverToken.from_json(store.read(file_info.path)))
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            continue  # it has just ended, or is another release's
    return tokens


def select_living(tokens: Sequence[DriverToken]) -> list[DriverToken]:
    """Return the tokens of drivers that are at work, the one that began first at first."""
    now = datetime.now(UTC)
    return sorted((token for token in tokens if token.is_alive(now)), key=lambda token: token.started_at)


def read_living_drivers(store: Store, run: str) -> list[DriverToken]:
    """Read the tokens of the drivers that are at work on a run, the one that began first at first."""
    return select_living(read_driver_tokens(store, run))
