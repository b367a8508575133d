"""Writes the evaluation's own corpus: unseen tunes with complete prompts, and clips to train the classifier on.

Tunes, arrangement and sound are those of musicgen.corpus, but every prompt names the instrument, the tempo, the key and
the drums, where training captions leave some of them out. Half of the unseen tunes are public-domain tunes of the split
`test`, which no training uses; the other half, and the clips for the classifier, are composed from seeds that only the
evaluation uses.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from musicgen.corpus.compose import compose_piece
from musicgen.corpus.music21_tunes import load_tunes
from musicgen.corpus.score import INSTRUMENTS, TONICS, Mode, Score
from musicgen.corpus.synth import render_score
from musicgen.corpus.timbre import RATE_HZ
from musicgen.corpus.tune import Tune, play_tune
from musicgen.evaluation.examples import CAPTIONS
from musicgen.evaluation.extras import require_extras

_SETTINGS_FILE = "originals.json"
_VERSION = 1
_PUBLIC_TUNES = 300  # read from music21's corpus; one in seven is of the split test
_MODES: tuple[Mode, ...] = ("major", "minor")
_SEED = 20_250  # makes the draws differ from those of training corpora


def write_originals(
    folder: Path,
    clips: int,
    training_clips: int,
    seed: int,
    seconds: float,
    processes: int = 2,
    on_message: Callable[[str], None] = lambda text: None,
) -> Path:
    """Write `clips` examples of the split test and `training_clips` of train, if the folder does not hold them yet.

    Returns `folder`. Instruments and modes take turns; half of the test tunes are public-domain tunes, half composed.
    The same seed gives the same bytes. Raises `JobError` if music21 is not installed.
    """
    settings = {"version": _VERSION, "clips": clips, "lessons": training_clips, "seed": seed, "seconds": seconds}
    settings_path = folder / _SETTINGS_FILE
    if settings_path.is_file() and json.loads(settings_path.read_text()) == settings:
        return folder
    require_extras("music21", "joblib")
    from joblib import Parallel, delayed

    settings_path.unlink(missing_ok=True)
    folder.mkdir(parents=True, exist_ok=True)
    public_tunes = [
        tune for tune in load_tunes(folder / "tunes.json", _PUBLIC_TUNES, on_message) if tune.split == "test"
    ]
    jobs: list[tuple[str, int, Sequence[Tune]]] = [
        ("test", clip_index, public_tunes if (clip_index + clip_index // 12) % 2 else ()) for clip_index in range(clips)
    ]
    jobs += [("train", clip_index, ()) for clip_index in range(training_clips)]
    on_message(f"making {clips} unseen originals, and {training_clips} clips to train the instrument classifier")
    rows = Parallel(n_jobs=processes)(delayed(_write_original)(folder, *job, seed, seconds) for job in jobs)

    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.Table.from_pylist(rows), folder / CAPTIONS)
    settings_path.write_text(
        json.dumps(settings) + "\n", encoding="utf-8"
    )  # written last: without it the folder is made again
    return folder


def evaluation_prompt(score: Score, rng: np.random.Generator) -> str:
    """Return a prompt that names everything that is measured, in a drawn order."""
    phrases = [
        score.instrument,
        f"{score.tempo_bpm:.0f} bpm",
        f"in {TONICS[score.tonic]} {score.mode}",
        "with drums" if score.drums else "no drums",
    ]
    return ", ".join(phrases[index] for index in rng.permutation(len(phrases)))


def _write_original(
    folder: Path, split: str, clip_index: int, public_tunes: Sequence[Tune], seed: int, seconds: float
) -> dict[str, object]:
    """Compose (or draw one of the `public_tunes`), render and write one example. Returns its row."""
    import soundfile

    rng = np.random.default_rng([_SEED, seed, split == "test", clip_index])
    instrument, mode = INSTRUMENTS[clip_index % len(INSTRUMENTS)], _MODES[clip_index // len(INSTRUMENTS) % 2]
    score = _draw_score(instrument, mode, public_tunes, seconds, rng)
    relative_paths = [f"{split}/{clip_index:04}{part}.flac" for part in ("", "-lead")]
    for relative_path, waveform in zip(relative_paths, render_score(score, seconds), strict=True):
        path = folder / relative_path
        path.parent.mkdir(exist_ok=True)
        soundfile.write(path, waveform, RATE_HZ, subtype="PCM_16")
    return {
        "audio": relative_paths[0],
        "prompt": evaluation_prompt(score, rng),
        "melody": relative_paths[1],
        "split": split,
        **score.facts(),
    }


def _draw_score(
    instrument: str, mode: Mode, public_tunes: Sequence[Tune], seconds: float, rng: np.random.Generator
) -> Score:

    for tune_index in rng.permutation(len(public_tunes)):
        if (
            public_tunes[tune_index].mode == mode
            and (score := play_tune(public_tunes[tune_index], instrument, seconds, rng)) is not None
        ):
            return score
    return compose_piece(instrument, mode, seconds, rng)
