"""Tunes that were there before us: a melody in beats, and how a band plays some bars of it."""

import hashlib
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from musicgen.corpus.arrange import FASTEST_BPM, SLOWEST_BPM, arrange, draw_plan
from musicgen.corpus.clarity import key_is_clear
from musicgen.corpus.harmony import harmonise
from musicgen.corpus.score import Mode, Note, Score

_LOWEST, _HIGHEST = 64, 88  # of a lead: E4 to E6
_NOTES_PER_S = 5.0  # at most, on average
_TRIES = 6


@dataclass(frozen=True, slots=True)
class Tune:
    """A melody: (onset, duration, MIDI number) in quarter notes, from a bar line on; which key, how many quarters a bar."""

    name: str  # collection/title
    tonic: int
    mode: Mode
    beats_per_bar: int
    notes: tuple[tuple[float, float, int], ...]

    @property
    def split(self) -> str:
        """train, valid or test, by the name: every clip of a tune is on the same side."""
        place = int.from_bytes(hashlib.sha256(self.name.encode()).digest()[:4], "big") % 20
        return "test" if place < 3 else "valid" if place == 3 else "train"

    def to_json(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Tune":
        """The reverse of `to_json`."""
        notes = tuple((float(onset), float(duration), int(pitch)) for onset, duration, pitch in values["notes"])
        return cls(values["name"], values["tonic"], values["mode"], values["beats_per_bar"], notes)


def play(tune: Tune, instrument: str, seconds: float, rng: np.random.Generator) -> Score | None:
    """Some bars of a tune, in a key and at a tempo drawn for them, with a band; None if no such place of it has a clear key."""
    for _ in range(_TRIES):
        score = _excerpt(tune, instrument, seconds, rng)
        if score and key_is_clear(score):
            return score
    return None


def _excerpt(tune: Tune, instrument: str, seconds: float, rng: np.random.Generator) -> Score | None:
    end = max(onset + duration for onset, duration, _ in tune.notes)
    fastest = float(np.clip(_NOTES_PER_S * 60 * end / len(tune.notes), SLOWEST_BPM, FASTEST_BPM))
    plan = draw_plan(rng, instrument, tune.mode, fastest)
    bar = tune.beats_per_bar
    bars = int(np.ceil(seconds / (plan.beat_s * bar)))
    there = int(end // bar)
    first = int(rng.integers(max(there - bars, 0) + 1)) * bar if rng.random() < 0.5 else 0
    # A tune shorter than the clip begins again.
    length = there * bar - first
    if length < 2 * bar:
        return None
    melody = [
        (onset - first + again * length, min(duration, there * bar - onset), pitch)
        for again in range(-(-bars * bar // length))
        for onset, duration, pitch in tune.notes
        if first <= onset < there * bar and onset - first + again * length < bars * bar
    ]
    if not melody:
        return None
    shift = _shift([pitch for _, _, pitch in melody], rng)
    if shift is None:
        return None
    tonic = (tune.tonic + shift) % 12
    melody = [(onset, duration, pitch + shift) for onset, duration, pitch in melody]
    each = 2 if bar == 4 and plan.tempo_bpm < 140 else bar
    chords = harmonise(melody, bars * bar, each, tonic, tune.mode)
    lead = [
        Note(onset * plan.beat_s, 0.95 * duration * plan.beat_s, pitch, 0.9 if onset % bar == 0 else 0.8)
        for onset, duration, pitch in melody
    ]
    return arrange(plan, lead, chords, bar, tonic, tune.name, rng)


def _shift(pitches: list[int], rng: np.random.Generator) -> int | None:
    """Semitones that bring a melody into a lead's range, at random among those that do; None if it is too wide."""
    low, high = _LOWEST - min(pitches), _HIGHEST - max(pitches)
    return int(rng.integers(low, high + 1)) if low <= high else None
