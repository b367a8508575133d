"""Removes clips from a dataset, and takes a removal back: by key, by id, or by a condition on the index.

A removal is an object for each clip (`musicgen.dataset.tombstones`). The row and the audio stay until `musicgen gc`.
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from musicgen.dataset import paths
from musicgen.dataset.clip_condition import ClipCondition
from musicgen.dataset.reader import Dataset
from musicgen.dataset.tombstones import ClipPlace, LastEntry, State, is_key, put_entry, read_tombstones
from musicgen.errors import StoreError, first_line
from musicgen.parallel import map_ordered
from musicgen.storage.parquet_reader import ParquetReader

_THREADS = 16


@dataclass
class RemovalReport:
    """What became of the clips that were asked for, each by its key.

    `changed` were removed or, with `undo`, are back. `unchanged` were so before. `unknown` are keys and ids that the
    dataset does not have, `too_late` clips that `gc` has deleted or is deleting, which cannot be brought back.
    """

    undo: bool
    dry_run: bool
    changed: list[str] = field(default_factory=list)
    unchanged: int = 0
    unknown: list[str] = field(default_factory=list)
    too_late: list[str] = field(default_factory=list)
    notes: tuple[str, ...] = ()  # what the card says could not be done

    @property
    def failed(self) -> bool:
        """Return whether something that was asked for could not be done."""
        return bool(self.unknown or self.too_late)


def remove_clips(
    dataset: Dataset,
    names: Collection[str] = (),
    where: str | None = None,
    undo: bool = False,
    dry_run: bool = False,
) -> RemovalReport:
    """Remove the clips with these keys or ids, and those that the condition `where` holds for; or undo their removal.

    An id stands for all samples of its row. `where` is an SQL condition as in `select_clips`. From then on the readers
    of this package leave the clips out, and no run makes them again. The card and its table have to be written anew
    afterwards (`publish_card`). Raises `JobError` for a wrong condition, `StoreError` for
    a store that cannot replace an object on condition.
    """
    report = RemovalReport(undo, dry_run)
    tombstones = dataset.tombstones()
    unmatched = set(names)
    if not dry_run:
        dataset.store.probe()
        dataset.store.probe_replacing()  # else `gc` could never delete what is removed

    def decide(place: ClipPlace) -> tuple[str, State | None]:
        return place.key, _decide(dataset, place, tombstones.find(place), undo, dry_run)

    places = _find_clips(dataset, frozenset(names), where, unmatched)
    for key, state in map_ordered(decide, places, threads=_THREADS):
        if state is None:
            report.unchanged += 1
        elif state in ("deleting", "deleted"):
            report.too_late.append(key)
        else:
            report.changed.append(key)
    gone = {place.key for place, entry in tombstones if entry.state == "deleted"}
    for name in sorted(unmatched):
        if name not in gone:
            report.unknown.append(name)
        elif undo:
            report.too_late.append(name)
        else:
            report.unchanged += 1
    return report


def _decide(dataset: Dataset, place: ClipPlace, last: LastEntry, undo: bool, dry_run: bool) -> State | None:
    """Put the entry for one clip. Returns what it says; None if nothing had to be done, else what stands against it."""
    while True:
        if undo and last.state in ("deleting", "deleted"):
            return last.state
        if undo == (last.state == "undone"):
            return None
        wanted: State = "undone" if undo else "removed"
        if dry_run or put_entry(dataset.store, place, last, wanted):
            return wanted
        last = read_tombstones(dataset.store, place.key).find(place)  # another process was faster


def _find_clips(dataset: Dataset, names: frozenset[str], where: str | None, unmatched: set[str]) -> Iterator[ClipPlace]:
    """Yield the clips of the index that are meant, also removed ones; takes keys and ids that occur out of `unmatched`.

    The index is read by the calling thread, one row group at a time.
    """
    wanted = pa.array(sorted(names), pa.string())
    with duckdb.connect(config={"enable_external_access": False}) as database:
        condition = None if where is None else ClipCondition(database, where)
        for part_path in dataset.parts():
            run, shard = paths.parse_index_part(part_path) or ("", 0)
            with dataset.store.open(part_path) as file:
                try:
                    part = ParquetReader(file)
                except pa.ArrowException as error:
                    raise StoreError(
                        f"{dataset.store.join(part_path)} is damaged ({first_line(error)}); run `musicgen verify`"
                    ) from None
                for row_group in range(part.num_row_groups):
                    rows = part.read_row_group(row_group, ["key", "id"]).combine_chunks()
                    is_meant = pc.or_(
                        pc.is_in(rows["key"], value_set=wanted), pc.is_in(rows["id"], value_set=wanted)
                    ).combine_chunks()
                    for row in rows.filter(is_meant).to_pylist():
                        unmatched -= {row["key"], row["id"]}
                    if condition is not None:
                        is_meant = pc.or_(is_meant, condition.check_row_group(part, row_group, dataset))
                    keys = rows.filter(is_meant)["key"].to_pylist()
                    yield from (ClipPlace(key, run, shard) for key in keys if is_key(key))
