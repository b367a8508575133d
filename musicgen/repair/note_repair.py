"""Mends small notes of a dataset: what their names say is enough to write them anew, without times and hosts."""

import json
from dataclasses import asdict

import pyarrow as pa

from musicgen.dataset import paths
from musicgen.dataset.gc_gate import Gate
from musicgen.dataset.index_part import read_footer
from musicgen.dataset.open_failures import read_failures
from musicgen.dataset.pause import Pause
from musicgen.dataset.reader import Dataset
from musicgen.dataset.tombstones import ClipPlace, mark_deleted
from musicgen.own_checksum import dump_json
from musicgen.plan import read_shard
from musicgen.plan.planned_runs import load_plan, pending_shards
from musicgen.repair.document_repair import NotMended, put_document, turn_bit_back
from musicgen.storage import Store
from musicgen.storage.parquet_reader import ParquetReader
from musicgen.value_types import JsonObject


def mend_note(dataset: Dataset, path: str) -> str:
    """Write a note anew: a gate, a pause, an entry of `removed/`, a driver's token, slots. Returns what was done.

    Raises `NotMended` if its name does not say what was in it.
    """
    store = dataset.store
    if turn_bit_back(store, path):
        return "one bit turned back"
    if (run := paths.parse_driver_token(path)) is not None:
        return _delete_token(store, path, run)
    document = _read_slots(dataset, path) if "/slots" in path else _find_document(store, path)
    put_document(store, path, dump_json(document))
    return "written anew from what its name says" if "/slots" not in path else "read from the index"


def _delete_token(store: Store, path: str, run: str) -> str:
    if pending_shards(store, load_plan(store, run)):
        raise NotMended("its driver writes it every few seconds, if it lives; a later one has a token of its own")
    store.delete(path)
    return "deleted: the run is finished, and no driver needs it"


def _find_document(store: Store, path: str) -> JsonObject:
    """Return what a note says, as far as its name and those beside it tell."""
    if path == paths.PAUSE:
        return asdict(Pause())
    if (gate := paths.parse_gate(path)) is not None:
        number, is_release = gate
        return {"at": ""} if is_release else asdict(Gate(number))
    if paths.parse_superseded_note(path) is not None:
        return {"superseded_at": "", "closed_by": "", "pending_shards": 0}
    if (entry := paths.parse_tombstone(path)) is not None:
        return _find_entry(store, *entry)
    raise NotMended("it cannot be made again; nothing but `status` and reports reads it")


def _find_entry(store: Store, key: str, run: str, shard: int, number: int | None) -> JsonObject:
    """Return an entry of `removed/`: odd ones remove, and what follows an even one tells what that said."""
    if number is None:
        return {"state": "deleted"}
    state = "removed"
    if number % 2 == 0:
        if store.exists(paths.tombstone(key, run, shard, number + 1)):
            state = "undone"  # or the clip could not have been removed again
        elif store.exists(paths.deleted_mark(key, run, shard)):
            state = "deleting"
        else:
            raise NotMended(
                "it said that a removal was undone, or that the clip is being deleted: nothing else tells which; write "
                '{"state": "undone"} or {"state": "deleting"} into it'
            )
    return {"state": state, "at": "", "by": ""}


def _read_slots(dataset: Dataset, path: str) -> JsonObject:
    """Return the number of slots of a run's actors on one kind of device, as the index column `engine` has it."""
    run = path.split("/")[1]
    slots: list[int] = []
    try:
        engines = Dataset(dataset.store, dataset.info, run).to_arrow(["engine"])["engine"].unique().to_pylist()
        for engine in engines:
            parts = json.loads(engine)
            if paths.slots_file(run, str(parts["device"])) == path:
                slots.append(int(parts["slots"]))
    except (pa.ArrowException, ValueError, KeyError, TypeError):
        slots = []
    if not slots:
        raise NotMended("the index does not say how many slots the run's actors had; delete the file to choose anew")
    return {"slots": min(slots)}


def mend_removed(dataset: Dataset, part_path: str) -> str:
    """Mark the clips of an index part as deleted that its run planned and that are nowhere. Raises `NotMended`."""
    run, shard = paths.parse_index_part(part_path) or ("", 0)
    footer = read_footer(dataset.store, part_path)
    with dataset.store.open(part_path) as file:
        known = {*ParquetReader(file).read(["key"])["key"].to_pylist()}
    known |= {*read_failures(dataset.store, [footer.failures] if footer.failures else [])["key"].to_pylist()}
    tombstones = dataset.tombstones()
    known |= tombstones.of_parts.get((run, shard), {}).keys()
    keys = read_shard(dataset.store, load_plan(dataset.store, run), shard).keys
    lost = [key for key in keys if key not in known]
    if len(lost) != footer.removed - tombstones.count_deleted(run, shard):
        raise NotMended("which of its clips were deleted cannot be told; repair what else is damaged first")
    mark_deleted(dataset.store, [ClipPlace(key, run, shard) for key in lost])
    return f"{len(lost)} clips marked as deleted again"
