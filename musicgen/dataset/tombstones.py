"""Which clips were removed from a dataset: a few small objects for each, and their names alone tell nearly all.

Entry 1 of a clip says that it is removed; from then on every reader of this package leaves it out, and no run makes it
again. Entry 2 says that this was undone, or that `musicgen gc` is deleting the clip: both put this one name if it is
absent, so one of them is too late. After an undone removal entry 3 removes the clip again, and so on. The mark of
deletion comes last, when neither the row nor the audio is there any more. No entry is ever changed or deleted.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from typing import Literal, NamedTuple
from uuid import uuid4

from musicgen.dataset import paths
from musicgen.errors import StoreError
from musicgen.own_checksum import dump_json
from musicgen.parallel import map_ordered
from musicgen.run_plan import format_time
from musicgen.storage import Store

State = Literal["removed", "undone", "deleting", "deleted"]
"""Of the last entry; `deleted` if the mark of deletion is there too. All but `undone` hide the clip."""

_THREADS = 16


class ClipPlace(NamedTuple):
    """A clip and the index part that has its row."""

    key: str
    run: str
    shard: int


@dataclass(frozen=True, slots=True)
class LastEntry:
    """The number of a clip's last entry, and what it says."""

    number: int
    state: State


NO_ENTRY = LastEntry(0, "undone")
_last_entry = cache(LastEntry)  # there are few different ones, and perhaps a million clips


@dataclass(frozen=True)
class Tombstones:
    """The removed clips of a dataset, by run and shard of their index parts."""

    of_parts: Mapping[tuple[str, int], Mapping[str, LastEntry]]

    def __iter__(self) -> Iterator[tuple[ClipPlace, LastEntry]]:
        for (run, shard), entries in self.of_parts.items():
            for key, entry in entries.items():
                yield ClipPlace(key, run, shard), entry

    def find(self, place: ClipPlace) -> LastEntry:
        """Return the last entry of a clip; `NO_ENTRY` if it has none."""
        return self.of_parts.get((place.run, place.shard), {}).get(place.key, NO_ENTRY)

    def count_deleted(self, run: str, shard: int) -> int:
        """Count the clips of an index part that were deleted, or are being deleted."""
        return sum(entry.state in ("deleting", "deleted") for entry in self.of_parts.get((run, shard), {}).values())

    def hidden_in(self, part_path: str) -> frozenset[str]:
        """Return the keys whose rows a reader of this index part leaves out."""
        entries = self.of_parts.get(paths.parse_index_part(part_path) or ("", 0), {})
        return frozenset(key for key, entry in entries.items() if entry.state != "undone")

    def hidden_keys(self) -> Iterator[str]:
        """Yield the keys of all clips that are removed, whether deleted or not."""
        return (place.key for place, entry in self if entry.state != "undone")

    def names(self) -> Iterator[str]:
        """Yield a text for each hidden clip: the same ones as long as readers see the same."""
        for place, entry in self:
            if entry.state != "undone":
                yield f"{place.key} {place.run} {place.shard}"


def read_tombstones(store: Store, key: str = "") -> Tombstones:
    """List the removed clips of a dataset, or those with this key.

    Takes one listing, and a request for each clip that was restored, or whose deletion has begun and not ended.
    """
    files = store.scan(paths.REMOVED, key).files if key else store.list(paths.REMOVED)
    of_parts: dict[tuple[str, int], dict[str, LastEntry]] = {}
    unread: list[tuple[ClipPlace, int]] = []
    for file_info in files:
        if (parsed := paths.parse_tombstone(file_info.path)) is None:
            continue
        clip_key, run, shard, number = parsed
        entries = of_parts.setdefault((run, shard), {})
        known = entries.get(clip_key, NO_ENTRY)
        if number is None:
            entries[clip_key] = _last_entry(known.number, "deleted")
        elif known.state == "deleted":
            entries[clip_key] = _last_entry(max(known.number, number), "deleted")
        elif number > known.number:
            entries[clip_key] = _last_entry(number, "removed" if number % 2 else "deleting")
    for (run, shard), entries in of_parts.items():
        unread += [(ClipPlace(k, run, shard), e.number) for k, e in entries.items() if e.state == "deleting"]

    def read_state(item: tuple[ClipPlace, int]) -> tuple[ClipPlace, LastEntry]:
        return item[0], _last_entry(item[1], _read_state(store, *item))

    for place, entry in map_ordered(read_state, unread, threads=_THREADS):
        of_parts[place.run, place.shard][place.key] = entry
    return Tombstones(of_parts)


def is_key(text: str) -> bool:
    """Whether a text has the form of a clip's key: 64 hexadecimal digits."""
    return len(text) == 64 and set(text) <= set("0123456789abcdef")


def _read_state(store: Store, place: ClipPlace, number: int) -> State:
    path = paths.tombstone(*place, number)
    try:
        state = json.loads(store.read(path))["state"]
    except (ValueError, KeyError, TypeError):
        raise StoreError(f"{store.join(path)} is damaged, so nobody can tell whether the clip is removed") from None
    return "undone" if state == "undone" else "deleting"


def put_entry(store: Store, place: ClipPlace, last: LastEntry, state: State) -> bool:
    """Put the entry after `last`; returns False if another process has put that one, whatever it says."""
    content = {"state": state, "at": format_time(datetime.now(UTC)), "by": uuid4().hex}
    return store.commit_if_absent(paths.tombstone(*place, last.number + 1), dump_json(content))


def mark_deleted(store: Store, places: Iterable[ClipPlace]) -> None:
    """Put the mark of deletion for clips of which nothing is left but their key."""

    def put_mark(place: ClipPlace) -> None:
        store.put_if_absent(paths.deleted_mark(*place), dump_json({"state": "deleted"}))

    for _ in map_ordered(put_mark, places, threads=_THREADS):
        pass
