"""Clips with what is known about them: what the judges learn from, and what a model is asked for."""

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
    """The examples of a corpus folder (musicgen.corpus writes one).

    Raises `JobError` if it is none, or lacks a column.
    """
    import pyarrow.parquet as pq

    path = folder / CAPTIONS
    if not path.is_file():
        raise JobError(f"{folder} holds no {CAPTIONS}; give the folder of a corpus, or leave it out and one is made")
    known = pq.read_schema(path).names
    if lacking := [name for name in _COLUMNS if name not in known]:
        raise JobError(f"{path} lacks {', '.join(lacking)}; evaluating needs the columns {', '.join(_COLUMNS)}")
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
    """Up to `count` examples of a split, drawn by `seed`, with instruments and modes as evenly as the split allows.

    Even, so that a constant answer is right no more often than one in six, or one in two. Raises `JobError` for an
    empty split.
    """
    groups: dict[tuple[str, str], list[Example]] = {}
    for example in sorted(examples, key=lambda e: e.name):
        if example.split == split:
            groups.setdefault((example.instrument, example.mode), []).append(example)
    if not groups:
        raise JobError(f"the corpus has no clips of the split {split!r}; make it larger")
    rng = np.random.default_rng(seed)
    shuffled = [[group[i] for i in rng.permutation(len(group))] for _, group in sorted(groups.items())]
    turns = zip_longest(*shuffled)
    return [example for turn in turns for example in turn if example is not None][:count]
