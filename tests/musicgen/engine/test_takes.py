"""One request is one sound, also with two threads and four: clips with many known positions, take after take."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TypedDict

import numpy as np
import pytest
import soundfile

from musicgen.model.decoder.cpu_ops import load_library
from tests.musicgen.engine.takes import clips

ROOT = Path(__file__).parents[3]


class Takes(TypedDict):
    """What `tests.musicgen.engine.takes` prints."""

    clips: dict[str, list[str]]
    helped: int


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A melody of three seconds."""
    folder = tmp_path_factory.mktemp("takes")
    pitches_hz = np.repeat([440.0, 523.25, 659.25, 587.33, 493.88, 440.0], 16_000)
    soundfile.write(folder / "melody.wav", 0.3 * np.sin(2 * np.pi * np.cumsum(pitches_hz) / 32_000), 32_000)
    return folder


def run_takes(folder: Path, threads: int, takes: int, dtype: str, window_s: float, compiled: bool = True) -> Takes:
    module = "tests.musicgen.engine.takes"
    command = [sys.executable, "-m", module, str(threads), str(takes), dtype, str(folder), str(window_s)]
    env = {**os.environ, "OMP_NUM_THREADS": str(threads), "MUSICGEN_COMPILE": "1" if compiled else "0"}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    takes_made: Takes = json.loads(done.stdout)
    return takes_made


def check_one_result(
    folder: Path, dtype: str, takes: int, processes: int, threads_tried: tuple[int, ...], window_s: float
) -> None:
    """Compare takes by several threads in several processes, in float32 also with torch's own operations."""
    if isinstance(library := load_library(), str):
        pytest.skip(f"no compiled kernels: {library}")
    alone = run_takes(folder, 1, 1, dtype, window_s)
    assert alone["helped"] == 0
    assert all(len(hashes) == 1 for hashes in alone["clips"].values())
    assert len({hashes[0] for hashes in alone["clips"].values()}) == len(clips(folder, True, window_s))
    for threads in threads_tried:
        for _ in range(processes):
            made = run_takes(folder, threads, takes, dtype, window_s)
            assert made["helped"] > 100 * takes, "the threads were not hired"
            assert made["clips"] == alone["clips"], threads
    if dtype == "float32":
        assert run_takes(folder, 1, 1, dtype, window_s, compiled=False)["clips"] == alone["clips"]


@pytest.mark.parametrize("dtype", [pytest.param("float32", marks=pytest.mark.slow), "bfloat16"])
def test_takes_with_two_threads_are_one_sound(folder: Path, dtype: str) -> None:
    check_one_result(folder, dtype, takes=2, processes=1, threads_tried=(2,), window_s=3.8)


@pytest.mark.slow
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_forty_takes_in_two_processes_are_one_sound(folder: Path, dtype: str) -> None:
    check_one_result(folder, dtype, takes=40, processes=2, threads_tried=(2, 4), window_s=10.0)
