"""Chords, and the parts that follow from them: accompaniment, bass and drums."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from musicgen.corpus.score import HAT, KICK, SNARE, Mode, Note, pitch

# Scale degrees (0 = tonic), a chord each. The tonic comes often, and a minor key has its leading tone: the mode is to be heard.
PROGRESSIONS: dict[Mode, tuple[tuple[int, ...], ...]] = {
    "major": ((0, 4, 5, 3), (0, 3, 4, 0), (0, 5, 3, 4), (0, 3, 0, 4), (0, 1, 4, 0), (0, 4, 0, 3), (0, 3, 4, 4)),
    "minor": ((0, 3, 4, 0), (0, 5, 3, 4), (0, 3, 0, 4), (0, 5, 6, 0), (0, 6, 5, 4), (0, 4, 0, 3), (0, 0, 3, 4)),
}
STYLES = ("pad", "broken", "comp", "none")


@dataclass(frozen=True, slots=True)
class Chord:
    """A triad on a scale degree, for some beats."""

    start: float  # beats
    beats: float
    degree: int

    def pitches(self, tonic: int, mode: Mode) -> tuple[int, int, int]:
        """Root, third and fifth as MIDI numbers above middle C; the dominant of a minor key has the leading tone."""
        root, third, fifth = (
            pitch(tonic, mode, self.degree + step, raised_seventh=self.degree == 4) for step in (0, 2, 4)
        )
        return root, third, fifth


def cycle(mode: Mode, beats: int, beats_each: int, rng: np.random.Generator) -> list[Chord]:
    """A progression of this mode, again and again, until `beats` are full."""
    degrees = PROGRESSIONS[mode][rng.integers(len(PROGRESSIONS[mode]))]
    return [
        Chord(float(i * beats_each), float(beats_each), degrees[i % len(degrees)])
        for i in range(-(-beats // beats_each))
    ]


def chords_part(chords: Sequence[Chord], style: str, tonic: int, mode: Mode, beat_s: float) -> Iterator[Note]:
    """The accompaniment in one of STYLES, between G3 and F sharp 4: under the lead."""
    for chord in chords:
        voiced = sorted(55 + (p - 55) % 12 for p in chord.pitches(tonic, mode))
        if style == "pad":
            for p in voiced:
                yield Note(chord.start * beat_s, chord.beats * beat_s, p, 0.6, "chords")
        elif style == "comp":
            for beat in np.arange(0, chord.beats, 1.0):
                for p in voiced:
                    yield Note((chord.start + beat) * beat_s, 0.7 * beat_s, p, 0.65 if beat == 0 else 0.55, "chords")
        elif style == "broken":
            order = (voiced[0], voiced[1], voiced[2], voiced[1])
            for i, at in enumerate(np.arange(0, chord.beats, 0.5)):
                yield Note((chord.start + at) * beat_s, 0.6 * beat_s, order[i % 4], 0.6, "chords")


def bass_part(chords: Sequence[Chord], busy: int, tonic: int, mode: Mode, beat_s: float) -> Iterator[Note]:
    """Roots and fifths between E2 and D sharp 3: one note a chord (`busy` 0), one every second beat (1), or every beat (2)."""
    for chord in chords:
        root, _, fifth = (40 + (p - 40) % 12 for p in chord.pitches(tonic, mode))
        step = (chord.beats, 2.0, 1.0)[busy]
        for i, at in enumerate(np.arange(0, chord.beats, step)):
            length = min(step, chord.beats - at)
            fifth_now = i % 4 == 2 or (busy == 1 and i % 2 == 1)
            yield Note((chord.start + at) * beat_s, 0.92 * length * beat_s, fifth if fifth_now else root, 0.8, "bass")


# Hits of a bar in beats: kick, snare, hi-hat.
_Pattern = tuple[tuple[float, ...], tuple[float, ...], tuple[float, ...]]
_EIGHTHS = (0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5)
_BEATS: dict[int, tuple[_Pattern, ...]] = {
    4: (
        ((0, 2), (1, 3), _EIGHTHS),
        ((0, 2, 2.5), (1, 3), _EIGHTHS),
        ((0, 1, 2, 3), (1, 3), (0.5, 1.5, 2.5, 3.5)),
        ((0, 2), (1, 3), (0, 1, 2, 3)),
        ((0, 1, 2, 3), (), _EIGHTHS),
    ),
    3: (((0,), (1, 2), (0, 1, 2)), ((0,), (1, 2), _EIGHTHS[:6])),
}


def drums_part(beats: int, beats_per_bar: int, beat_s: float, rng: np.random.Generator) -> Iterator[Note]:
    """A kit on the beat, the same bar again and again."""
    patterns = _BEATS[3 if beats_per_bar == 3 else 4]
    pattern = patterns[rng.integers(len(patterns))]
    bar = 3 if beats_per_bar == 3 else 4
    for start in range(0, beats, bar):
        for key, hits in zip((KICK, SNARE, HAT), pattern, strict=True):
            for at in hits:
                accent = 1.0 if at == int(at) else 0.7
                yield Note((start + at) * beat_s, 0.2, key, 0.9 * accent, "drums")


def harmonise(
    melody: Sequence[tuple[float, float, int]], beats: int, beats_each: int, tonic: int, mode: Mode
) -> list[Chord]:
    """A triad for every `beats_each` beats of a melody of (onset, duration, MIDI number), times in beats.

    The triad that shares most of the melody's time, with a leaning to tonic, dominant and subdominant; the last is the tonic.
    """
    leaning = {0: 1.3, 4: 1.15, 3: 1.1, 5: 0.9, 1: 0.9}
    chords: list[Chord] = []
    for start in range(0, beats, beats_each):
        weight = np.zeros(12)
        for onset, duration, p in melody:
            shared = min(onset + duration, start + beats_each) - max(onset, start)
            if shared > 0:
                weight[p % 12] += shared * (1.5 if start <= onset < start + 0.1 else 1.0)
        best, most = 0, -1.0
        for degree, lean in leaning.items():
            chord = Chord(float(start), float(beats_each), degree)
            heard = sum(weight[p % 12] for p in chord.pitches(tonic, mode)) * lean
            if heard > most + 1e-9:
                best, most = degree, heard
        chords.append(Chord(float(start), float(beats_each), best))
    return chords
