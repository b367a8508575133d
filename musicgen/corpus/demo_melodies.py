"""Writes the melodies of the demo: two public-domain tunes, played by the corpus' flute, that no training corpus has.

`python -m musicgen.corpus.demo_melodies configs/manifests/melodies` writes them again.
"""

import argparse
from pathlib import Path

from musicgen.corpus.score import Mode, Note, Score
from musicgen.corpus.synth import RATE_HZ, render_score

_SECONDS = 10.0
# Quarter notes a minute, tonic, mode, and (MIDI number, quarter notes) of each note.
_TUNES: dict[str, tuple[float, int, Mode, list[tuple[int, float]]]] = {
    # Ludwig van Beethoven, the theme of the ninth symphony's finale (1824), in D.
    "ode-to-joy": (
        112, 2, "major",
        [(78, 1), (78, 1), (79, 1), (81, 1), (81, 1), (79, 1), (78, 1), (76, 1), (74, 1), (74, 1), (76, 1), (78, 1),
        (78, 1.5), (76, 0.5),
         (76, 2), (78, 1), (78, 1), (79, 1)],
    ),
    # Greensleeves, English, before 1580, in A minor.
    "greensleeves": (
        132, 9, "minor",
        [(69, 1), (72, 2), (74, 1), (76, 1.5), (77, 0.5), (76, 1), (74, 2), (71, 1), (67, 1.5), (69, 0.5), (71, 1),
        (72, 2), (69, 1),
         (69, 1.5), (68, 0.5), (69, 1), (71, 2), (68, 1)],
    ),
}  # fmt: skip


def write_melodies(folder: Path) -> None:
    """Write one FLAC file per tune into `folder`: 10 s, 16 kHz, mono."""
    import soundfile

    folder.mkdir(parents=True, exist_ok=True)
    for name, (tempo_bpm, tonic, mode, tune) in _TUNES.items():
        notes, beat = [], 0.0
        for pitch, beats in tune:
            notes.append(Note(60 / tempo_bpm * beat, 0.95 * 60 / tempo_bpm * beats, pitch))
            beat += beats
        score = Score(tuple(notes), tempo_bpm, tonic, mode, "flute", drums=False, mood="calm", source=name)
        soundfile.write(folder / f"{name}.flac", render_score(score, _SECONDS)[1], RATE_HZ, subtype="PCM_16")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    write_melodies(parser.parse_args().folder)
