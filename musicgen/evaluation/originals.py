"""The evaluation's own corpus: unseen tunes with prompts that say all that is judged, and lessons for the judge of
timbre.

Tunes, arrangement and sound are those of musicgen.corpus; what is asked for is not: every prompt names the instrument,
the tempo, the key and the drums, where a training caption leaves out what it likes. Half of the tunes are old ones of
the split `test`, which no training hears; the other half, and the lessons, are composed from seeds of the evaluation's
own.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from musicgen.evaluation.examples import CAPTIONS
from musicgen.evaluation.extras import require_extras

if TYPE_CHECKING:
    from musicgen.corpus.score import Mode, Score
    from musicgen.corpus.tune import Tune

_STAMP = "originals.json"
_VERSION = 1
_OLD_TUNES = 300  # read out of music21; one in seven is of the split test
_MODES: "tuple[Mode, ...]" = ("major", "minor")
_SEED = 20_250  # keeps the draws apart from those of training corpora


def write_originals(
    folder: Path,
    clips: int,
    lessons: int,
    seed: int,
    seconds: float,
    processes: int = 2,
    on_message: Callable[[str], None] = lambda text: None,
) -> Path:
    """Write `clips` examples of split test and `lessons` of split train, unless the folder holds just these. Returns
    `folder`.

    Instruments and modes come in turn; half of the unseen tunes are old ones, half composed. The same seed gives the
    same bytes. Raises `JobError` if music21 is not installed.
    """
    wanted = {"version": _VERSION, "clips": clips, "lessons": lessons, "seed": seed, "seconds": seconds}
    stamp = folder / _STAMP
    if stamp.is_file() and json.loads(stamp.read_text()) == wanted:
        return folder
    require_extras("music21", "joblib")
    from joblib import Parallel, delayed

    from musicgen.corpus.music21_tunes import load_tunes

    stamp.unlink(missing_ok=True)
    folder.mkdir(parents=True, exist_ok=True)
    old = [tune for tune in load_tunes(folder / "tunes.json", _OLD_TUNES, on_message) if tune.split == "test"]
    work: list[tuple[str, int, Sequence[Tune]]] = [
        ("test", number, old if (number + number // 12) % 2 else ()) for number in range(clips)
    ]
    work += [("train", number, ()) for number in range(lessons)]
    on_message(f"making {clips} unseen originals, and {lessons} for the judge of timbre")
    rows = Parallel(n_jobs=processes)(delayed(_write_original)(folder, *item, seed, seconds) for item in work)

    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.Table.from_pylist(rows), folder / CAPTIONS)
    stamp.write_text(json.dumps(wanted) + "\n", encoding="utf-8")  # last: without it the folder is made again
    return folder


def evaluation_prompt(score: "Score", rng: np.random.Generator) -> str:
    """A prompt that says all that is judged, in some order."""
    from musicgen.corpus.score import TONICS

    phrases = [
        score.instrument,
        f"{score.tempo_bpm:.0f} bpm",
        f"in {TONICS[score.tonic]} {score.mode}",
        "with drums" if score.drums else "no drums",
    ]
    return ", ".join(phrases[i] for i in rng.permutation(len(phrases)))


def _write_original(
    folder: Path, split: str, number: int, old: "Sequence[Tune]", seed: int, seconds: float
) -> dict[str, Any]:
    """Compose (or draw one of the `old` tunes), render and write one example; returns its row."""
    import soundfile

    from musicgen.corpus.score import INSTRUMENTS
    from musicgen.corpus.synth import RATE_HZ, render_score

    rng = np.random.default_rng([_SEED, seed, split == "test", number])
    instrument, mode = INSTRUMENTS[number % len(INSTRUMENTS)], _MODES[number // len(INSTRUMENTS) % 2]
    score = _draw_score(instrument, mode, old, seconds, rng)
    places = [f"{split}/{number:04}{part}.flac" for part in ("", "-lead")]
    for place, sound in zip(places, render_score(score, seconds), strict=True):
        path = folder / place
        path.parent.mkdir(exist_ok=True)
        soundfile.write(path, sound, RATE_HZ, subtype="PCM_16")
    return {
        "audio": places[0],
        "prompt": evaluation_prompt(score, rng),
        "melody": places[1],
        "split": split,
        **score.facts(),
    }


def _draw_score(
    instrument: str, mode: "Mode", old: "Sequence[Tune]", seconds: float, rng: np.random.Generator
) -> "Score":
    from musicgen.corpus.compose import compose_piece
    from musicgen.corpus.tune import play_tune

    for i in rng.permutation(len(old)):
        if old[i].mode == mode and (score := play_tune(old[i], instrument, seconds, rng)) is not None:
            return score
    return compose_piece(instrument, mode, seconds, rng)
