"""Five minutes at the true frame rate: the same beside any others, no click where windows meet, bounded memory."""

import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from musicgen import Clip, MusicGen, Request

FRAMES, HOP = 15_000, 640
SEAMS = np.arange(1500, FRAMES, 900)  # the frames at which a window's own codes begin: 30 s, then every 18 s
FIVE_MINUTES = Request("a slow journey through the night", duration_s=300, seed=1)


@pytest.fixture(scope="module")
def model(text_checkpoint: Path) -> Iterator[MusicGen]:
    with MusicGen.from_pretrained(str(text_checkpoint), device="cpu", dtype="float32", slots=2) as model:
        yield model


@pytest.fixture(scope="module")
def clip(model: MusicGen) -> Clip:
    """Five minutes beside shorter clips, one of them long too."""
    others = [Request(f"song {i}", duration_s=seconds) for i, seconds in enumerate((2, 0.5, 33, 1))]
    return model.generate([others[0], FIVE_MINUTES, *others[1:]])[1]


def test_five_minutes_alone_are_five_minutes_in_a_mix(model: MusicGen, clip: Clip) -> None:
    assert clip.codes.shape == (4, FRAMES)
    assert clip.audio.shape == (1, FRAMES * HOP)
    (alone,) = model.generate([FIVE_MINUTES])
    assert np.array_equal(alone.codes, clip.codes)
    assert np.array_equal(alone.audio, clip.audio)
    ends = [*SEAMS, FRAMES]
    for start, end in pairwise(ends):  # no window repeats another, or sticks to one code
        assert len(np.unique(clip.codes[:, start:end])) > 32
        assert (clip.codes[:, start:end] == clip.codes[:, : end - start]).mean() < 0.2


def jumps(audio: NDArray[np.float32]) -> NDArray[np.float32]:
    """How far the steps from sample to sample around each frame border lie off what is usual there, [frames - 1]."""
    borders = np.arange(1, len(audio) // HOP) * HOP
    steps = np.diff(audio, prepend=audio[:1])[borders[:, None] + np.arange(-8, 8)]
    return np.abs(steps - np.median(steps, axis=0)).max(axis=1)


def flux(audio: NDArray[np.float32], window: int = 320) -> NDArray[np.float32]:
    """What the 10 ms across each frame border hold that neither the 10 ms before nor those after do, [frames - 1]."""
    borders = np.arange(1, len(audio) // HOP) * HOP
    before, across, after = (
        np.abs(
            np.fft.rfft(audio[(borders + shift)[:, None] + np.arange(window)] * np.hanning(window).astype(np.float32))
        )
        for shift in (-window, -window // 2, 0)
    )
    return np.sqrt((np.maximum(across - np.maximum(before, after), 0) ** 2).sum(axis=1))


@pytest.mark.parametrize("measure", [jumps, flux])
def test_no_click_where_windows_meet(model: MusicGen, clip: Clip, measure) -> None:
    """Seams are like any other frame border of the clip; had each window gone through the codec alone, each would be
    heard.
    """

    def ranks(audio: NDArray[np.float32]) -> NDArray[np.float64]:
        """For each seam, the share of the clip's other frame borders with a smaller value."""
        values = measure(audio)
        others = np.delete(values, SEAMS - 1)
        return np.array([(others < values[seam - 1]).mean() for seam in SEAMS])

    found = ranks(clip.audio[0])
    assert found.max() < 0.999
    assert 0.25 < found.mean() < 0.75
    pieces = np.split(clip.codes, SEAMS, axis=1)
    clicking = np.concatenate([model.decode(piece)[0] for piece in pieces])
    assert ranks(clicking).min() > 0.999


@pytest.mark.slow
def test_memory_of_decoding_five_minutes_is_bounded(text_checkpoint: Path) -> None:
    """In a process of its own, beyond what half a minute took: the sound three times (38 MB: pieces, joined, copy)."""
    code = f"""
import resource, sys
import numpy as np
from musicgen.model.load import load_codec
codec = load_codec(sys.argv[1], "cpu")
codes = np.random.default_rng(0).integers(0, codec.codebook_size, (4, {FRAMES})).astype(np.int16)
codec.decode(codes[:, :1500])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
sound = codec.decode(codes)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before, sound.nbytes // 1024)
"""
    out = subprocess.run(
        [sys.executable, "-c", code, str(text_checkpoint)], capture_output=True, text=True, check=True
    ).stdout.split()
    grown, result = map(int, out)  # KB; without pieces it grows by fifteen times the result
    assert result == FRAMES * HOP * 4 // 1024
    assert grown < 4 * result
