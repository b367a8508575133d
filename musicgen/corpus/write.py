"""Writes a corpus: audio, the leads alone, and captions.

Its files are `audio/<n>.flac` and `melody/<n>.flac` (16 kHz mono) and `captions.parquet`. Clip n depends only on the
seed and n, so neither the number of processes nor an interruption changes a byte.
"""

import hashlib
import json
import multiprocessing
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import lru_cache, partial
from pathlib import Path

import numpy as np

from musicgen.corpus.arrange import instrument_of_clip
from musicgen.corpus.caption import draw_caption
from musicgen.corpus.compose import compose_piece
from musicgen.corpus.music21_tunes import load_tunes
from musicgen.corpus.score import Score
from musicgen.corpus.synth import render_score
from musicgen.corpus.timbre import RATE_HZ
from musicgen.corpus.tune import Tune, play_tune
from musicgen.value_types import TableRow

CAPTIONS = "captions.parquet"
TUNES = 600  # read from music21's corpus
_SETTINGS_FILE = "corpus.json"
_COMPOSED_SHARE = 0.5  # of the clips; the others are public-domain tunes


@dataclass(frozen=True)
class _CorpusSettings:
    """The settings that a corpus was made with, as corpus.json keeps them."""

    clips: int
    seed: int
    seconds: float
    tunes: int
    version: int = 3


def write_corpus(
    folder: Path,
    clips: int,
    seed: int = 0,
    seconds: float = 10.0,
    processes: int = 2,
    tunes: int = TUNES,
    on_message: Callable[[str], None] = lambda text: None,
) -> Path:
    """Write the missing ones of `clips` clips of `seconds` into `folder`. Returns `folder`.

    Four tunes in five are for training, the others for validation and test; no tune is in two splits. `tunes=0` needs
    no music21. Raises ValueError for a folder that holds another corpus.
    """
    settings = _CorpusSettings(clips, seed, seconds, tunes)
    folder.mkdir(parents=True, exist_ok=True)
    settings_path = folder / _SETTINGS_FILE
    if settings_path.is_file() and json.loads(settings_path.read_text()) != asdict(settings):
        raise ValueError(
            f"{folder} holds another corpus ({settings_path.read_text().strip()}); give another folder, or delete it"
        )
    settings_path.write_text(json.dumps(asdict(settings)) + "\n")
    if (folder / CAPTIONS).is_file():
        return folder
    for name in ("audio", "melody"):
        (folder / name).mkdir(exist_ok=True)
    if tunes:
        load_tunes(folder / "tunes.json", tunes, on_message)
    rows, started_at, reported_at = [], time.monotonic(), time.monotonic()
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        for row in pool.imap(partial(_write_clip, folder, settings), range(clips), chunksize=16):
            rows.append(row)
            if time.monotonic() - reported_at > 5:
                reported_at = time.monotonic()
                on_message(
                    f"corpus: {len(rows)} of {clips} clips, "
                    f"{len(rows) * seconds / (reported_at - started_at):.0f} times real time"
                )
    _write_captions(folder, rows)
    return folder


def split_of_piece(name: str) -> str:
    """Return the split of a composed piece by a hash of its name, which is the same in every corpus."""
    bucket = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big") % 20
    return "test" if bucket < 2 else "valid" if bucket == 2 else "train"


def _write_clip(folder: Path, settings: _CorpusSettings, clip_index: int) -> TableRow:
    """Compose, render and write a clip. Returns its row of captions.parquet."""
    import soundfile

    rng = np.random.default_rng([settings.seed, clip_index])
    score, tune, split = _draw_score(folder, settings, clip_index, rng)
    caption = draw_caption(score, rng)
    paths = [f"{part}/{clip_index:06d}.flac" for part in ("audio", "melody")]
    if not all((folder / path).is_file() for path in paths):
        for path, waveform in zip(paths, render_score(score, settings.seconds), strict=True):
            partial_path = folder / f"{path}.partial"
            soundfile.write(partial_path, waveform, RATE_HZ, format="FLAC", subtype="PCM_16")
            partial_path.replace(folder / path)
    return {
        "audio": paths[0],
        "prompt": caption,
        "melody": paths[1],
        "split": split,
        **score.facts(),
        "tune": tune,
        "beat_s": 60 / score.tempo_bpm,
    }


def _draw_score(
    folder: Path, settings: _CorpusSettings, clip_index: int, rng: np.random.Generator
) -> tuple[Score, str, str]:
    """Draw the score of a clip. Returns it with the name of its tune and its split."""
    instrument = instrument_of_clip(clip_index)
    tunes = _cached_tunes(folder, settings.tunes) if settings.tunes else []
    if tunes and rng.random() >= _COMPOSED_SHARE:
        tune = tunes[int(rng.integers(len(tunes)))]
        score = play_tune(tune, instrument, settings.seconds, rng)
        if score is not None:
            return score, tune.name, tune.split
    name = f"composed/{settings.seed}/{clip_index}"
    return (
        compose_piece(instrument, "major" if rng.random() < 0.5 else "minor", settings.seconds, rng),
        name,
        split_of_piece(name),
    )


@lru_cache(maxsize=2)
def _cached_tunes(folder: Path, count: int) -> list[Tune]:
    return load_tunes(folder / "tunes.json", count)


def _write_captions(folder: Path, rows: list[TableRow]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    partial_path = folder / f"{CAPTIONS}.partial"
    pq.write_table(pa.Table.from_pylist(rows), partial_path)
    partial_path.replace(folder / CAPTIONS)
