"""Composes pieces by rule: a chord progression, a few repeated motifs, and an accompaniment, all drawn from a seed."""

import numpy as np

from musicgen.corpus.arrange import Arrangement, arrange_score, draw_arrangement
from musicgen.corpus.clarity import key_is_clear
from musicgen.corpus.harmony import Chord, draw_progression
from musicgen.corpus.score import Mode, Note, Score, scale_pitch

_MAX_TRIES = 40

# Rhythms of one bar as note lengths in beats (a rest is negative), by beats per bar, from calm to busy.
_RHYTHMS: dict[int, tuple[tuple[float, ...], ...]] = {
    4: (
        (2, 2), (2, 1, 1), (1, 1, 2), (3, 1),
        (1, 1, 1, 1), (1.5, 0.5, 1, 1), (1, 0.5, 0.5, 2), (1, 1, 1, -1), (0.5, 0.5, 1, 1, 1), (1.5, 0.5, 2),
        (0.5, 0.5, 0.5, 0.5, 1, 1), (1, 0.5, 0.5, 1, 0.5, 0.5), (0.5, 0.5, 1, 0.5, 0.5, 1), (1, 0.5, 0.5, 0.5, 0.5, 1),
        (0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 1), (0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5),
    ),
    3: ((2, 1), (1, 1, 1), (1.5, 0.5, 1), (1, 0.5, 0.5, 1), (0.5, 0.5, 1, 1), (0.5, 0.5, 0.5, 0.5, 1)),
}  # fmt: skip
_FORMS = ("AABA", "ABAB", "AABB", "ABAC", "AAAB")


def compose_piece(instrument: str, mode: Mode, seconds: float, rng: np.random.Generator) -> Score:
    """Compose a piece of at least `seconds`. A piece whose key is not clear is discarded, up to forty times."""
    for _ in range(_MAX_TRIES):
        score = _draw_piece(draw_arrangement(rng, instrument, mode), seconds, rng)
        if key_is_clear(score):
            break
    return score


def _draw_piece(arrangement: Arrangement, seconds: float, rng: np.random.Generator) -> Score:
    beats_per_bar = 3 if rng.random() < 0.1 else 4
    bars = int(np.ceil(seconds / (arrangement.beat_s * beats_per_bar)))
    tonic = int(rng.integers(12))
    # Slow music changes chords within the bar, so that a clip of ten seconds has more than two chords.
    beats_per_chord = 2 if beats_per_bar == 4 and arrangement.tempo_bpm < 100 else beats_per_bar
    chords = draw_progression(arrangement.mode, bars * beats_per_bar, beats_per_chord, rng)
    lead = _draw_melody(arrangement, chords, bars, beats_per_bar, tonic, rng)
    return arrange_score(arrangement, lead, chords, beats_per_bar, tonic, "composed", rng)


def _draw_melody(
    arrangement: Arrangement, chords: list[Chord], bars: int, beats_per_bar: int, tonic: int, rng: np.random.Generator
) -> list[Note]:
    """Draw a lead of two or three motifs in a form such as AABA.

    Notes on strong beats are moved to the bar's chord; the notes between follow the motif's contour.
    """
    form = _FORMS[rng.integers(len(_FORMS))]
    motifs = {name: _draw_motif(arrangement, beats_per_bar, rng) for name in sorted(set(form))}
    center = _center_degree(tonic)
    beat_s = arrangement.beat_s
    notes: list[Note] = []
    degree = center
    for bar in range(bars):
        rhythm, steps = motifs[form[bar % len(form)]]
        is_closing = bar % 4 == 3 or bar == bars - 1
        beat = 0.0
        # A repeated motif starts on the same degree again (moved at most to the chord), so that it is recognizable.
        degree = center + steps[0] if bar % 2 == 0 else degree + int(np.sign(center - degree))
        for index, length in enumerate(rhythm):
            if length < 0:
                beat -= length
                continue
            if index:
                degree += steps[index]
            degree = int(np.clip(degree, center - 4, center + 7))
            chord = _chord_at(chords, bar * beats_per_bar + beat)
            is_last = is_closing and index == len(rhythm) - 1
            if is_last or (beat == int(beat) and (beat % 2 == 0 or length >= 1)):
                degree = _nearest_chord_tone(degree, chord)
            raised = chord.degree == 4 or (arrangement.mode == "minor" and is_last)
            velocity = 0.9 if beat == 0 else 0.75 + 0.1 * rng.random()
            pitch = scale_pitch(tonic, arrangement.mode, degree, raised)
            notes.append(Note((bar * beats_per_bar + beat) * beat_s, 0.95 * length * beat_s, pitch, velocity))
            beat += length
    return notes


def _draw_motif(
    arrangement: Arrangement, beats_per_bar: int, rng: np.random.Generator
) -> tuple[tuple[float, ...], list[int]]:
    """Draw a bar's rhythm, with at most five and a half notes per second, and its contour in scale steps."""
    playable = [
        rhythm
        for rhythm in _RHYTHMS[beats_per_bar]
        if 0.8 < len(rhythm) / (beats_per_bar * arrangement.beat_s) < 5.5
        and min(abs(length) for length in rhythm) * arrangement.beat_s > 0.16
    ] or list(_RHYTHMS[beats_per_bar][-3:])
    rhythm = playable[rng.integers(len(playable))]
    direction = int(rng.choice((-1, 1)))
    steps = [int(rng.integers(-2, 5))]
    for _ in rhythm[1:]:
        if rng.random() < 0.3:
            direction = -direction
        steps.append(direction * int(rng.choice((0, 1, 2, 3), p=(0.1, 0.6, 0.2, 0.1))))
    return rhythm, steps


def _center_degree(tonic: int) -> int:
    """Return the scale degree nearest to D5, around which melodies move.

    At that height a small codec can still distinguish semitones.
    """
    return round((74 - 60 - tonic) * 7 / 12)


def _chord_at(chords: list[Chord], beat: float) -> Chord:
    """Return the chord that sounds at a beat."""
    return next(chord for chord in reversed(chords) if chord.start <= beat + 1e-6)


def _nearest_chord_tone(degree: int, chord: Chord) -> int:
    """Return the chord tone nearest to a scale degree; of two, the lower one."""
    chord_tones = {(chord.degree + step) % 7 for step in (0, 2, 4)}
    return next(degree + offset for offset in (0, -1, 1, -2, 2) if (degree + offset) % 7 in chord_tones)
