"""Music by rule: a progression, a motif that comes back, and a band. No two seeds give the same piece."""

import numpy as np

from musicgen.corpus.arrange import Plan, arrange, draw_plan
from musicgen.corpus.clarity import key_is_clear
from musicgen.corpus.harmony import Chord, cycle
from musicgen.corpus.score import Mode, Note, Score, pitch

_TRIES = 40

# A bar's rhythm as note lengths in beats; a rest is negative. By beats a bar, calm to busy.
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


def compose(instrument: str, mode: Mode, seconds: float, rng: np.random.Generator) -> Score:
    """A piece at least `seconds` long. Pieces whose key is not clear are thrown away, up to forty times."""
    for _ in range(_TRIES):
        score = _piece(draw_plan(rng, instrument, mode), seconds, rng)
        if key_is_clear(score):
            break
    return score


def _piece(plan: Plan, seconds: float, rng: np.random.Generator) -> Score:
    beats_per_bar = 3 if rng.random() < 0.1 else 4
    bars = int(np.ceil(seconds / (plan.beat_s * beats_per_bar)))
    tonic = int(rng.integers(12))
    # Slow music changes chords within the bar: ten seconds are to hold more than two of them.
    beats_each = 2 if beats_per_bar == 4 and plan.tempo_bpm < 100 else beats_per_bar
    chords = cycle(plan.mode, bars * beats_per_bar, beats_each, rng)
    lead = _melody(plan, chords, bars, beats_per_bar, tonic, rng)
    return arrange(plan, lead, chords, beats_per_bar, tonic, "composed", rng)


def _melody(
    plan: Plan, chords: list[Chord], bars: int, beats_per_bar: int, tonic: int, rng: np.random.Generator
) -> list[Note]:
    """Bars of two or three motifs in a form; each bar's strong beats fall on its chord, the steps between follow the motif."""
    form = _FORMS[rng.integers(len(_FORMS))]
    motifs = {name: _motif(plan, beats_per_bar, rng) for name in sorted(set(form))}
    centre = _centre(tonic)
    notes: list[Note] = []
    place = centre
    for bar in range(bars):
        rhythm, steps = motifs[form[bar % len(form)]]
        closing = bar % 4 == 3 or bar == bars - 1
        at = 0.0
        # The first note of a motif that comes back stays where its contour put it, up to the chord: so it is known again.
        place = centre + steps[0] if bar % 2 == 0 else place + int(np.sign(centre - place))
        for i, length in enumerate(rhythm):
            if length < 0:
                at -= length
                continue
            if i:
                place += steps[i]
            place = int(np.clip(place, centre - 4, centre + 7))
            chord = _chord_at(chords, bar * beats_per_bar + at)
            last = closing and i == len(rhythm) - 1
            if last or (at == int(at) and (at % 2 == 0 or length >= 1)):
                place = _snap(place, chord)
            raised = chord.degree == 4 or (plan.mode == "minor" and last)
            velocity = 0.9 if at == 0 else 0.75 + 0.1 * rng.random()
            height = pitch(tonic, plan.mode, place, raised)
            notes.append(Note((bar * beats_per_bar + at) * plan.beat_s, 0.95 * length * plan.beat_s, height, velocity))
            at += length
    return notes


def _motif(plan: Plan, beats_per_bar: int, rng: np.random.Generator) -> tuple[tuple[float, ...], list[int]]:
    """A bar's rhythm, with at most five and a half notes a second, and its contour in scale steps."""
    playable = [
        rhythm
        for rhythm in _RHYTHMS[beats_per_bar]
        if 0.8 < len(rhythm) / (beats_per_bar * plan.beat_s) < 5.5
        and min(abs(length) for length in rhythm) * plan.beat_s > 0.16
    ] or list(_RHYTHMS[beats_per_bar][-3:])
    rhythm = playable[rng.integers(len(playable))]
    direction = int(rng.choice((-1, 1)))
    steps = [int(rng.integers(-2, 5))]
    for _ in rhythm[1:]:
        if rng.random() < 0.3:
            direction = -direction
        steps.append(direction * int(rng.choice((0, 1, 2, 3), p=(0.1, 0.6, 0.2, 0.1))))
    return rhythm, steps


def _centre(tonic: int) -> int:
    """The scale degree nearest to D5, around which melodies move: high enough for a small codec to tell semitones apart."""
    return round((74 - 60 - tonic) * 7 / 12)


def _chord_at(chords: list[Chord], beat: float) -> Chord:
    return next(chord for chord in reversed(chords) if chord.start <= beat + 1e-6)


def _snap(degree: int, chord: Chord) -> int:
    """The chord's degree nearest to this one; of two, the lower."""
    tones = {(chord.degree + step) % 7 for step in (0, 2, 4)}
    return next(degree + off for off in (0, -1, 1, -2, 2) if (degree + off) % 7 in tones)
