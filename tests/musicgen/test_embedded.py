"""The weights in the package do what they are asked: a few clips, judged by librosa. The whole evaluation is a slow test."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

import configs
from musicgen import MusicGen, Request
from musicgen.evaluation import chroma, heard

MELODIES = Path(configs.__file__).parent / "manifests" / "melodies"


@pytest.fixture(scope="module")
def model() -> Iterator[MusicGen]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with MusicGen.from_pretrained("embedded", device="cpu", slots=8) as model:
        yield model
    torch.set_num_threads(threads)


def test_a_clip_has_the_melody_that_it_was_given_and_not_the_other(model: MusicGen) -> None:
    names = ("ode-to-joy", "greensleeves")
    instruments = ("piano", "organ", "strings")
    clips = model.generate(
        [
            Request(prompt=f"{instrument}, no drums", duration_s=6.0, melody=str(MELODIES / f"{name}.flac"))
            for name in names
            for instrument in instruments
        ]
    )
    tunes = [heard.tune(MELODIES / f"{name}.flac", 6.0).notes for name in names]
    sounds = [heard.tune((clip.audio, clip.sample_rate)).chroma for clip in clips]
    found = np.array([[chroma.agreement(tune, sound) for tune in tunes] for sound in sounds])  # [clips, tunes]
    own = np.arange(len(clips)) // len(instruments)
    given = found[np.arange(len(clips)), own].mean()
    assert given > 2 * found[np.arange(len(clips)), 1 - own].mean(), found
