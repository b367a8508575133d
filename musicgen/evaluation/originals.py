"""The evaluation's own corpus: unseen tunes with prompts that say all that is judged, and lessons for the judge of timbre.

Tunes, arrangement and sound are those of musicgen.training.corpus; what is asked for is not: every prompt names the instrument,
the tempo, the key and the drums, where a training caption leaves out what it likes. The tunes are of the split `test`, which no
training hears, and the lessons of the split `train`.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from musicgen.evaluation.extras import require
from musicgen.evaluation.material import CAPTIONS

if TYPE_CHECKING:
    from musicgen.training.corpus.score import Melody, Score

_STAMP = "originals.json"
_VERSION = 1


def write_originals(
    folder: Path, clips: int, lessons: int, seed: int, seconds: float, processes: int = 2, told: Callable[[str], None] = lambda text: None
) -> Path:
    """Write `clips` examples of split test and `lessons` of split train, unless the folder holds just these. Returns `folder`.

    Instruments and modes come in turn; half of the unseen tunes are old ones, half composed. The same seed gives the same bytes.
    Raises `JobError` if music21 is not installed.
    """
    wanted = {"version": _VERSION, "clips": clips, "lessons": lessons, "seed": seed, "seconds": seconds}
    stamp = folder / _STAMP
    if stamp.is_file() and json.loads(stamp.read_text()) == wanted:
        return folder
    require("music21", "joblib")
    from joblib import Parallel, delayed

    from musicgen.training.corpus.tunes import tunes

    stamp.unlink(missing_ok=True)
    folder.mkdir(parents=True, exist_ok=True)
    old = tunes(folder / "tunes.json", told)
    work = [("test", number, melody) for number, melody in zip(range(clips), _melodies("test", seed, old), strict=False)]
    work += [("train", number, melody) for number, melody in zip(range(lessons), _melodies("train", seed, ()), strict=False)]
    told(f"making {clips} unseen originals, and {lessons} for the judge of timbre")
    rows = Parallel(n_jobs=processes)(delayed(_write)(folder, *item, seed, seconds) for item in work)

    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.Table.from_pylist(rows), folder / CAPTIONS)
    stamp.write_text(json.dumps(wanted) + "\n", encoding="utf-8")  # last: without it the folder is made again
    return folder


def question(score: "Score", rng: np.random.Generator) -> str:
    """A prompt that says all that is judged, in some order."""
    from musicgen.training.corpus.score import TONICS

    phrases = [
        score.instrument,
        f"{score.tempo_bpm:.0f} bpm",
        f"in {TONICS[score.tonic]} {score.mode}",
        "with drums" if score.drums else "no drums",
    ]
    return ", ".join(phrases[i] for i in rng.permutation(len(phrases)))


def _melodies(split: str, seed: int, old: "Sequence[Melody]") -> "Iterator[Melody]":
    """Tunes of a split, major and minor in turn for six clips each, every second one an old one where there are some."""
    from musicgen.training.corpus.compose import compose
    from musicgen.training.corpus.write import split_of

    rng = np.random.default_rng([seed, 7])
    known = [melody for melody in old if split_of(melody.name) == split]
    shelves = {mode: [known[i] for i in rng.permutation(len(known)) if known[i].mode == mode] for mode in ("major", "minor")}
    taken = dict.fromkeys(shelves, 0)
    number = piece = 0
    while True:
        mode = ("major", "minor")[number // 6 % 2]
        if shelves[mode] and number % 2:
            yield shelves[mode][taken[mode] % len(shelves[mode])]
            taken[mode] += 1
            number += 1
            continue
        name = f"evaluation {seed} {piece}"
        melody = compose(name, np.random.default_rng([seed, 8, piece]))
        piece += 1
        if melody.mode == mode and split_of(name) == split:
            yield melody
            number += 1


def _write(folder: Path, split: str, number: int, melody: "Melody", seed: int, seconds: float) -> dict[str, Any]:
    """Arrange for the instrument whose turn it is, render and write one example; returns its row."""
    import soundfile

    from musicgen.training.corpus.arrange import arrange
    from musicgen.training.corpus.score import INSTRUMENTS, TONICS
    from musicgen.training.corpus.synth import RATE_HZ, render

    rng = np.random.default_rng([seed, 9, split == "test", number])
    score = arrange(melody, seconds, rng)
    while score.instrument != INSTRUMENTS[number % len(INSTRUMENTS)]:
        score = arrange(melody, seconds, rng)
    places = [f"{split}/{number:04}{part}.flac" for part in ("", "-lead")]
    for place, sound in zip(places, render(score, seconds), strict=True):
        path = folder / place
        path.parent.mkdir(exist_ok=True)
        soundfile.write(path, sound, RATE_HZ, subtype="PCM_16")
    return {
        "audio": places[0],
        "prompt": question(score, rng),
        "melody": places[1],
        "split": split,
        "instrument": score.instrument,
        "tempo_bpm": score.tempo_bpm,
        "tonic": TONICS[score.tonic],
        "mode": score.mode,
        "drums": score.drums,
        "source": score.source,
        "tune": melody.name,
    }
