"""Finds audio files that the index names and the store does not have, by listing names."""

from collections import Counter
from collections.abc import Collection, Iterable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from musicgen.dataset import paths
from musicgen.dataset.index_keys import read_index_keys
from musicgen.dataset.reader import Dataset
from musicgen.dataset.run_keys import split_keys
from musicgen.dataset.status import RunStatus, run_statuses
from musicgen.dataset.visible_rows import read_visible
from musicgen.storage import FileInfo
from musicgen.temporary_folder import temporary_folder

MOST_ROWS = 100_000  # of a dataset that is looked at in passing; `verify` looks at all


def find_missing_audio(dataset: Dataset, most_rows: int = MOST_ROWS) -> list[str]:
    """Return the audio files of the index that are not in the store, sorted; none for a dataset of more rows.

    Only parts are read of which something is missing. With `layout: parquet` the audio is in the index itself.
    """
    runs = run_statuses(dataset)
    if dataset.info.layout == "parquet" or sum(run.made for run in runs) > most_rows:
        return []
    stored = {file_info.path for file_info in dataset.store.list(paths.AUDIO)}
    parts = list(dataset.part_files())
    if dataset.info.layout == "files":
        suspected = _find_parts_without_files(dataset, parts, stored)
    else:
        suspected = _find_parts_without_tars(parts, runs, stored)
    tombstones = dataset.tombstones()
    named: set[str] = set()
    for path in suspected:
        rows = read_visible(dataset.store, path, tombstones.hidden_in(path), ["audio"])
        named.update(pc.unique(rows["audio"]).to_pylist())
    return sorted(named - stored)


def _find_parts_without_files(dataset: Dataset, parts: list[FileInfo], stored: Iterable[str]) -> list[str]:
    """Return the parts with a key of which no file is stored."""
    names = pa.array([key for path in stored if (key := paths.parse_audio_file(path))], pa.string())
    known = {*zip(*(words.to_pylist() for words in split_keys(names)), strict=True)}
    numbers: set[int] = set()
    with temporary_folder() as folder:
        for table in read_index_keys(dataset.store, parts, folder):
            keys = zip(table["k1"].to_pylist(), table["k2"].to_pylist(), strict=True)
            lost = np.array([key not in known for key in keys], bool)
            numbers.update(table["part"].to_numpy()[lost].tolist())
    return [parts[number].path for number in sorted(numbers)]


def _find_parts_without_tars(parts: list[FileInfo], runs: Iterable[RunStatus], stored: Collection[str]) -> list[str]:
    """Return the parts of runs that name more tars than are stored, or of which it is not known."""
    counts = Counter((paths.parse_audio_tar(path) or ("", 0))[0] for path in stored)
    whole = {run.run for run in runs if 0 < run.tars <= counts[run.run]}
    return [info.path for info in parts if (paths.parse_index_part(info.path) or ("", 0))[0] not in whole]
