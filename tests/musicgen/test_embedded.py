"""The weights in the package follow a melody, by the ear of the evaluation.

All of it is a slow test of `musicgen evaluate`.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from musicgen import MusicGen, Request
from musicgen.corpus.demo_melodies import write_melodies
from musicgen.evaluation import features as heard
from musicgen.evaluation import pitch_classes as chroma
from musicgen.presets import config_file

MELODIES = Path(str(config_file("manifests", "melodies")))


@pytest.fixture(scope="module")
def model() -> Iterator[MusicGen]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with MusicGen.from_pretrained("embedded", device="cpu", slots=8) as model:
            yield model
    finally:
        torch.set_num_threads(threads)


def test_the_melodies_of_the_demo_are_what_their_script_writes(tmp_path: Path) -> None:
    write_melodies(tmp_path)
    assert sorted(path.name for path in MELODIES.iterdir()) == sorted(path.name for path in tmp_path.iterdir())
    for path in MELODIES.iterdir():
        (ours, rate), (again, _) = (
            soundfile.read(folder / path.name, dtype="int16") for folder in (MELODIES, tmp_path)
        )
        assert rate == 16_000
        assert np.abs(ours.astype(int) - again).max() <= 1  # another processor may round otherwise


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
    tunes = [heard.extract_melody(MELODIES / f"{name}.flac", 6.0).notes for name in names]
    sounds = [heard.extract_melody((clip.audio, clip.sample_rate)).chroma for clip in clips]
    found = np.array([[chroma.class_agreement(tune, sound) for tune in tunes] for sound in sounds])  # [clips, tunes]
    own = np.arange(len(clips)) // len(instruments)
    given = found[np.arange(len(clips)), own].mean()
    assert given > 2 * found[np.arange(len(clips)), 1 - own].mean(), found
