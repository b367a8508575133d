"""Draws chord progressions and makes the voices that follow them: accompaniment, bass and drums."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from musicgen.corpus.score import HAT, KICK, SNARE, Mode, Note, scale_pitch

# One scale degree (0 = tonic) per chord. The tonic is frequent, and minor progressions have a dominant with the leading
# tone, so that the mode is clear.
PROGRESSIONS: dict[Mode, tuple[tuple[int, ...], ...]] = {
    "major": ((0, 4, 5, 3), (0, 3, 4, 0), (0, 5, 3, 4), (0, 3, 0, 4), (0, 1, 4, 0), (0, 4, 0, 3), (0, 3, 4, 4)),
    "minor": ((0, 3, 4, 0), (0, 5, 3, 4), (0, 3, 0, 4), (0, 5, 6, 0), (0, 6, 5, 4), (0, 4, 0, 3), (0, 0, 3, 4)),
}
ACCOMPANIMENT_STYLES = ("pad", "broken", "comp", "none")


@dataclass(frozen=True, slots=True)
class Chord:
    """A triad on a scale degree that sounds for some beats."""

    start: float  # beats
    beats: float
    degree: int

    def pitches(self, tonic: int, mode: Mode) -> tuple[int, int, int]:
        """Return root, third and fifth as MIDI numbers above middle C; a minor key's dominant has the leading tone."""
        root, third, fifth = (
            scale_pitch(tonic, mode, self.degree + step, raised_seventh=self.degree == 4) for step in (0, 2, 4)
        )
        return root, third, fifth


def draw_progression(mode: Mode, beats: int, beats_per_chord: int, rng: np.random.Generator) -> list[Chord]:
    """Draw a progression of this mode and repeat it until `beats` are full."""
    degrees = PROGRESSIONS[mode][rng.integers(len(PROGRESSIONS[mode]))]
    return [
        Chord(float(index * beats_per_chord), float(beats_per_chord), degrees[index % len(degrees)])
        for index in range(-(-beats // beats_per_chord))
    ]


def chord_notes(chords: Sequence[Chord], style: str, tonic: int, mode: Mode, beat_s: float) -> Iterator[Note]:
    """Yield the accompaniment in one of ACCOMPANIMENT_STYLES, between G3 and F sharp 4, which is below the lead."""
    for chord in chords:
        pitches = sorted(55 + (pitch - 55) % 12 for pitch in chord.pitches(tonic, mode))
        if style == "pad":
            for pitch in pitches:
                yield Note(chord.start * beat_s, chord.beats * beat_s, pitch, 0.6, "chords")
        elif style == "comp":
            for beat in np.arange(0, chord.beats, 1.0):
                velocity = 0.65 if beat == 0 else 0.55
                for pitch in pitches:
                    yield Note((chord.start + beat) * beat_s, 0.7 * beat_s, pitch, velocity, "chords")
        elif style == "broken":
            order = (pitches[0], pitches[1], pitches[2], pitches[1])
            for index, beat in enumerate(np.arange(0, chord.beats, 0.5)):
                yield Note((chord.start + beat) * beat_s, 0.6 * beat_s, order[index % 4], 0.6, "chords")


def bass_notes(chords: Sequence[Chord], busy: int, tonic: int, mode: Mode, beat_s: float) -> Iterator[Note]:
    """Yield roots and fifths between E2 and D sharp 3.

    `busy` 0 is one note per chord, 1 one every second beat, 2 one every beat.
    """
    for chord in chords:
        root, _, fifth = (40 + (pitch - 40) % 12 for pitch in chord.pitches(tonic, mode))
        step = (chord.beats, 2.0, 1.0)[busy]
        for index, beat in enumerate(np.arange(0, chord.beats, step)):
            length = min(step, chord.beats - beat)
            pitch = fifth if index % 4 == 2 or (busy == 1 and index % 2 == 1) else root
            yield Note((chord.start + beat) * beat_s, 0.92 * length * beat_s, pitch, 0.8, "bass")


# The beats of a bar on which kick, snare and hi-hat strike.
_DrumPattern = tuple[tuple[float, ...], tuple[float, ...], tuple[float, ...]]
_EIGHTHS = (0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5)
_DRUM_PATTERNS: dict[int, tuple[_DrumPattern, ...]] = {
    4: (
        ((0, 2), (1, 3), _EIGHTHS),
        ((0, 2, 2.5), (1, 3), _EIGHTHS),
        ((0, 1, 2, 3), (1, 3), (0.5, 1.5, 2.5, 3.5)),
        ((0, 2), (1, 3), (0, 1, 2, 3)),
        ((0, 1, 2, 3), (), _EIGHTHS),
    ),
    3: (((0,), (1, 2), (0, 1, 2)), ((0,), (1, 2), _EIGHTHS[:6])),
}


def drum_notes(beats: int, beats_per_bar: int, beat_s: float, rng: np.random.Generator) -> Iterator[Note]:
    """Yield a drum pattern of one bar, repeated."""
    bar = 3 if beats_per_bar == 3 else 4
    patterns = _DRUM_PATTERNS[bar]
    pattern = patterns[rng.integers(len(patterns))]
    for start in range(0, beats, bar):
        for drum, hits in zip((KICK, SNARE, HAT), pattern, strict=True):
            for beat in hits:
                accent = 1.0 if beat == int(beat) else 0.7
                yield Note((start + beat) * beat_s, 0.2, drum, 0.9 * accent, "drums")


def harmonize_melody(
    melody: Sequence[tuple[float, float, int]], beats: int, beats_per_chord: int, tonic: int, mode: Mode
) -> list[Chord]:
    """Choose a triad for every `beats_per_chord` beats of a melody of (onset, duration, MIDI number), times in beats.

    It is the triad whose pitch classes sound longest in the melody, where tonic, dominant and subdominant are
    preferred.
    """
    preferences = {0: 1.3, 4: 1.15, 3: 1.1, 5: 0.9, 1: 0.9}
    chords: list[Chord] = []
    for start in range(0, beats, beats_per_chord):
        weights = np.zeros(12)
        for onset, duration, pitch in melody:
            overlap = min(onset + duration, start + beats_per_chord) - max(onset, start)
            if overlap > 0:
                weights[pitch % 12] += overlap * (1.5 if start <= onset < start + 0.1 else 1.0)
        best_degree, best_score = 0, -1.0
        for degree, preference in preferences.items():
            chord = Chord(float(start), float(beats_per_chord), degree)
            score = sum(weights[pitch % 12] for pitch in chord.pitches(tonic, mode)) * preference
            if score > best_score + 1e-9:
                best_degree, best_score = degree, score
        chords.append(Chord(float(start), float(beats_per_chord), best_degree))
    return chords
