"""A small data set to train on."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile

RATE = 16_000


def tune(pitches: list[float], seconds: float = 1.6, rate: int = RATE) -> np.ndarray:
    """A decaying tone for each pitch (Hz), float32 [samples]."""
    each = int(seconds * rate / len(pitches))
    t = np.arange(each) / rate
    return np.concatenate(
        [0.4 * np.exp(-4 * t) * (np.sin(2 * np.pi * f * t) + 0.3 * np.sin(4 * np.pi * f * t)) for f in pitches]
    ).astype(np.float32)


@pytest.fixture(scope="session")
def melody_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tune of three notes."""
    path = tmp_path_factory.mktemp("melody") / "tune.wav"
    soundfile.write(path, tune([440.0, 523.25, 659.25]), RATE)
    return path


@pytest.fixture(scope="session")
def music(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training folder: ten tunes, one with a melody of its own, and two invalid rows."""
    folder = tmp_path_factory.mktemp("music")
    (folder / "audio").mkdir()
    draw = np.random.default_rng(0)
    rows = []
    for number in range(10):
        pitches = 220.0 * 2 ** (draw.integers(0, 13, 4) / 12)
        soundfile.write(folder / f"audio/{number}.flac", tune(list(pitches)), RATE)
        split = "valid" if number == 9 else "train"
        rows.append(
            {"audio": f"audio/{number}.flac", "prompt": f"slow piano number {number}", "melody": None, "split": split}
        )
    rows[0]["melody"] = "audio/lead.flac"
    soundfile.write(folder / "audio/lead.flac", tune([440.0, 440.0]), RATE)
    (folder / "audio/noise.flac").write_bytes(b"no sound")
    rows.append({"audio": "audio/noise.flac", "prompt": "broken", "melody": None, "split": "train"})
    rows.append({"audio": "audio/absent.flac", "prompt": "absent", "melody": None, "split": "train"})
    pq.write_table(pa.Table.from_pylist(rows), folder / "captions.parquet")
    return folder
