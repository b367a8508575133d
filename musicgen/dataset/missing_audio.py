"""Finds audio files that the index names and the store does not have, by listing names."""

import pyarrow.compute as pc

from musicgen.dataset import paths
from musicgen.dataset.reader import Dataset

MOST_ROWS = 100_000  # of a dataset that is looked at in passing; `verify` looks at all


def find_missing_audio(dataset: Dataset, most_rows: int = MOST_ROWS) -> list[str]:
    """Return the audio files of the index that are not in the store, sorted; none for a dataset of more rows.

    With `layout: parquet` the audio is in the index itself.
    """
    if dataset.info.layout == "parquet" or len(dataset) > most_rows:
        return []
    stored = {file_info.path for file_info in dataset.store.list(paths.AUDIO)}
    named: set[str] = set()
    for batch in dataset.batches(["audio"]):
        named.update(pc.unique(batch.column("audio")).to_pylist())
    return sorted(named - stored)
