"""Reads and draws the labeled clips of a corpus: to train the instrument classifier, and to request from a model."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

import numpy as np

from musicgen.errors import JobError

CAPTIONS = "captions.parquet"
_COLUMNS = ("audio", "prompt", "melody", "split", "instrument", "tempo_bpm", "mode", "drums")


@dataclass(frozen=True, slots=True)
class Example:
    """One clip of the corpus. `melody` is its lead alone, or the clip itself where the corpus has no lead."""

    name: str
    audio: Path
    melody: Path
    prompt: str
    split: str  # train, valid or test
    instrument: str
    tempo_bpm: float
    mode: str  # major or minor
    drums: bool


def read_examples(folder: Path) -> list[Example]:
    """Read the examples of a corpus folder (musicgen.corpus writes one).

    Raises `JobError` if the folder is not a corpus, or if a column is missing.
    """
    import pyarrow.parquet as pq

    path = folder / CAPTIONS
    if not path.is_file():
        raise JobError(f"{folder} holds no {CAPTIONS}; give the folder of a corpus, or leave it out and one is made")
    column_names = pq.read_schema(path).names
    if missing := [name for name in _COLUMNS if name not in column_names]:
        raise JobError(f"{path} lacks {', '.join(missing)}; evaluating needs the columns {', '.join(_COLUMNS)}")
    return [
        Example(
            name=row["audio"],
            audio=folder / row["audio"],
            melody=folder / (row["melody"] or row["audio"]),
            prompt=row["prompt"],
            split=row["split"],
            instrument=row["instrument"],
            tempo_bpm=float(row["tempo_bpm"]),
            mode=row["mode"],
            drums=bool(row["drums"]),
        )
        for row in pq.read_table(path, columns=list(_COLUMNS)).to_pylist()
    ]


def draw_examples(examples: Sequence[Example], split: str, count: int, seed: int) -> list[Example]:
    """Draw up to `count` examples of a split by `seed`, with instruments and modes as evenly as the split allows.

    With an even draw a constant answer is right for one example in six (instrument) or in two (mode). Raises `JobError`
    for an empty split.
    """
    groups: dict[tuple[str, str], list[Example]] = {}
    for example in sorted(examples, key=lambda example: example.name):
        if example.split == split:
            groups.setdefault((example.instrument, example.mode), []).append(example)
    if not groups:
        raise JobError(f"the corpus has no clips of the split {split!r}; make it larger")
    rng = np.random.default_rng(seed)
    shuffled = [[group[index] for index in rng.permutation(len(group))] for _, group in sorted(groups.items())]
    rounds = zip_longest(*shuffled)
    return [example for round_of_groups in rounds for example in round_of_groups if example is not None][:count]
