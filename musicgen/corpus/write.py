"""Writes a corpus: audio, the leads alone, and captions.

On disk: `audio/<n>.flac` and `melody/<n>.flac` (16 kHz mono) and `captions.parquet`. Clip n depends on the seed and n
alone, so that neither the number of processes nor an interruption changes a byte.
"""

import hashlib
import json
import multiprocessing
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from musicgen.corpus.arrange import instrument_of_clip
from musicgen.corpus.caption import draw_caption
from musicgen.corpus.compose import compose_piece
from musicgen.corpus.music21_tunes import load_tunes
from musicgen.corpus.score import Score
from musicgen.corpus.synth import render_score
from musicgen.corpus.timbre import RATE_HZ
from musicgen.corpus.tune import Tune, play_tune

CAPTIONS = "captions.parquet"
TUNES = 600  # read out of music21's corpus
_SETTINGS = "corpus.json"
_COMPOSED = 0.5  # of the clips; the others are old tunes


@dataclass(frozen=True)
class _CorpusStamp:
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
    """Write `clips` clips of `seconds` into `folder`, or what of them is missing. Returns `folder`.

    Four tunes in five are for training, the others for validation and test; no tune is in two splits. `tunes=0` does
    without music21. A folder that holds another corpus raises ValueError.
    """
    settings = _CorpusStamp(clips, seed, seconds, tunes)
    folder.mkdir(parents=True, exist_ok=True)
    known = folder / _SETTINGS
    if known.is_file() and json.loads(known.read_text()) != asdict(settings):
        raise ValueError(
            f"{folder} holds another corpus ({known.read_text().strip()}); give another folder, or delete it"
        )
    known.write_text(json.dumps(asdict(settings)) + "\n")
    if (folder / CAPTIONS).is_file():
        return folder
    for name in ("audio", "melody"):
        (folder / name).mkdir(exist_ok=True)
    if tunes:
        load_tunes(folder / "tunes.json", tunes, on_message)
    rows, began, reported_at = [], time.monotonic(), time.monotonic()
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        for row in pool.imap(partial(_write_clip, folder, settings), range(clips), chunksize=16):
            rows.append(row)
            if time.monotonic() - reported_at > 5:
                reported_at = time.monotonic()
                on_message(
                    f"corpus: {len(rows)} of {clips} clips, {len(rows) * seconds / (reported_at - began):.0f} times "
                    "real time"
                )
    _write_captions(folder, rows)
    return folder


def split_of_piece(name: str) -> str:
    """The split of a composition: the same in every corpus."""
    place = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big") % 20
    return "test" if place < 2 else "valid" if place == 2 else "train"


def _write_clip(folder: Path, settings: _CorpusStamp, number: int) -> dict[str, Any]:
    """Compose, render and write clip `number`; returns its row."""
    import soundfile

    rng = np.random.default_rng([settings.seed, number])
    score, tune, split = _draw_score(folder, settings, number, rng)
    text = draw_caption(score, rng)
    places = [f"{part}/{number:06d}.flac" for part in ("audio", "melody")]
    if not all((folder / place).is_file() for place in places):
        for place, sound in zip(places, render_score(score, settings.seconds), strict=True):
            fresh = folder / f"{place}.partial"
            soundfile.write(fresh, sound, RATE_HZ, format="FLAC", subtype="PCM_16")
            fresh.replace(folder / place)
    return {
        "audio": places[0],
        "prompt": text,
        "melody": places[1],
        "split": split,
        **score.facts(),
        "tune": tune,
        "beat_s": 60 / score.tempo_bpm,
    }


def _draw_score(folder: Path, settings: _CorpusStamp, number: int, rng: np.random.Generator) -> tuple[Score, str, str]:
    """The score of a clip, the name of its tune, its split."""
    instrument = instrument_of_clip(number)
    known = _cached_tunes(folder, settings.tunes) if settings.tunes else []
    if known and rng.random() >= _COMPOSED:
        tune = known[int(rng.integers(len(known)))]
        score = play_tune(tune, instrument, settings.seconds, rng)
        if score is not None:
            return score, tune.name, tune.split
    name = f"composed/{settings.seed}/{number}"
    return (
        compose_piece(instrument, "major" if rng.random() < 0.5 else "minor", settings.seconds, rng),
        name,
        split_of_piece(name),
    )


@lru_cache(maxsize=2)
def _cached_tunes(folder: Path, count: int) -> list[Tune]:
    return load_tunes(folder / "tunes.json", count)


def _write_captions(folder: Path, rows: list[dict[str, Any]]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    fresh = folder / f"{CAPTIONS}.partial"
    pq.write_table(pa.Table.from_pylist(rows), fresh)
    fresh.replace(folder / CAPTIONS)
