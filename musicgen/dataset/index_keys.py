"""Reads the keys of the whole index: of finished runs from their files of keys (`musicgen.dataset.run_keys`)."""

import io
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from musicgen.dataset import paths
from musicgen.dataset.folded_runs import FoldedRun, open_folded_runs
from musicgen.dataset.run_keys import RUN_KEYS_SCHEMA, find_run_keys, group_parts, read_part_keys
from musicgen.parallel import map_ordered
from musicgen.storage import FileInfo, Store

_THREADS = 4


def read_index_keys(store: Store, infos: Iterable[FileInfo], folder: Path) -> Iterator[pa.Table]:
    """Yield the keys of the index's rows (`k1`, `k2`) in its order, each with the number of its part (`part`).

    `infos` are the index's parts, in order. Of runs that have a file of keys the parts are not read. `folder` is for
    a temporary file. Raises `PartDamaged`.
    """
    parts = list(infos)
    numbers = {info.path: number for number, info in enumerate(parts)}
    groups = group_parts(parts)
    files = {info.path: info for info in store.list(paths.RUNS)}
    run_keys = find_run_keys(groups, files)
    sources: list[tuple[str, FileInfo | FoldedRun]] = []

    def number_parts(run: str, keys: pa.Table) -> pa.Table:
        keys = keys.filter(keys["error_class"].is_null())
        shards = keys["shard"].to_numpy()
        unique, places = np.unique(shards, return_inverse=True)
        of_shards = np.array([numbers[paths.index_part(run, int(shard))] for shard in unique], np.int32)
        part_numbers = pa.array(of_shards[places] if len(keys) else shards)
        return keys.select(["k1", "k2"]).append_column("part", part_numbers)

    with open_folded_runs(store, files.get(paths.FOLDED_RUNS), folder) as folded:
        for run, own in groups.items():
            key_file = run_keys.get(run)
            if (folded_run := folded.find(run, key_file)) is not None:
                sources.append((run, folded_run))
            else:
                sources += [(run, info) for info in (own if key_file is None else [key_file])]

        def read(source: tuple[str, FileInfo | FoldedRun]) -> list[pa.Table]:
            run, place = source
            if isinstance(place, FoldedRun):
                return [number_parts(run, piece) for piece in folded.read_keys(place)]
            if place.path in numbers:
                return [number_parts(run, read_part_keys(store, place.path).keys)]
            content = io.BytesIO(store.read(place.path))
            return [number_parts(run, pq.read_table(content, columns=RUN_KEYS_SCHEMA.names, use_threads=False))]

        for tables in map_ordered(read, sources, threads=_THREADS):
            yield from tables
