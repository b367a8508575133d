"""Synthesizes tunes with a known instrument, tempo, key and beat, as a corpus folder."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import soundfile
from numpy.typing import NDArray

RATE = 16_000
SCALES = {"major": (0, 2, 4, 5, 7, 9, 11), "minor": (0, 2, 3, 5, 7, 8, 10)}
TUNE = (0, 2, 4, 0, 4, 2, 1, 0)  # degrees of the scale: tonic and third tell the mode


def note(instrument: str, midi: float, seconds: float) -> NDArray[np.float64]:
    """One note: organs hold, pianos fade, flutes swell."""
    time = np.arange(round(seconds * RATE)) / RATE
    harmonics = {"organ": (1, 0.9, 0.8, 0.7, 0.6), "piano": (1, 0.5, 0.25, 0.12), "flute": (1, 0.1)}[instrument]
    phase = 2 * np.pi * 440 * 2 ** ((midi - 69) / 12) * time
    tone = sum(a * np.sin((k + 1) * phase) for k, a in enumerate(harmonics))
    shape = {"organ": 1.0, "piano": np.exp(-6 * time), "flute": np.minimum(time / 0.1, 1)}[instrument]
    return tone * shape * np.minimum((seconds - time) / 0.01, 1)


def lead(instrument: str, tonic: int, mode: str, bpm: float, seconds: float) -> NDArray[np.float64]:
    """A tune of one note a beat."""
    beat = 60 / bpm
    notes = [
        note(instrument, 60 + tonic + SCALES[mode][TUNE[i % len(TUNE)]], beat) for i in range(int(seconds / beat) + 1)
    ]
    return 0.25 * np.concatenate(notes)[: round(seconds * RATE)]


def clicks(bpm: float, seconds: float, seed: int = 0) -> NDArray[np.float64]:
    """A burst of noise on every beat."""
    noise = np.random.default_rng(seed).standard_normal(round(seconds * RATE))
    since = np.arange(len(noise)) / RATE % (60 / bpm)
    return 0.2 * noise * np.exp(-since * 60)


def write(folder: Path, clips: int, seconds: float) -> Path:
    """A corpus in the format of musicgen.corpus; every second clip is of the split test."""
    rows = []
    (folder / "audio").mkdir(parents=True)
    for i in range(clips):
        instrument, mode = ("organ", "piano", "flute")[i // 2 % 3], ("major", "minor")[i // 6 % 2]
        bpm, tonic = 70.0 + 7 * (i * 5 % 11), i * 7 % 12
        tune = lead(instrument, tonic, mode, bpm, seconds)
        for name, sound in ((f"{i}.flac", tune + clicks(bpm, seconds, i)), (f"{i}-lead.flac", tune)):
            soundfile.write(folder / "audio" / name, np.clip(sound, -1, 1), RATE)
        known = {
            "instrument": instrument,
            "tempo_bpm": bpm,
            "mode": mode,
            "drums": True,
            "split": ("train", "test")[i % 2],
        }
        rows.append(
            {
                "audio": f"audio/{i}.flac",
                "melody": f"audio/{i}-lead.flac",
                "prompt": f"{mode} {instrument}, {bpm:.0f} bpm",
                **known,
            }
        )
    pq.write_table(pa.Table.from_pylist(rows), folder / "captions.parquet")
    return folder
