"""Defines tunes (melodies in beats), and draws scores of some of their bars with an accompaniment."""

import hashlib
from dataclasses import asdict, dataclass
from typing import TypedDict

import numpy as np

from musicgen.corpus.arrange import FASTEST_BPM, SLOWEST_BPM, arrange_score, draw_arrangement
from musicgen.corpus.clarity import key_is_clear
from musicgen.corpus.harmony import harmonize_melody
from musicgen.corpus.score import Mode, Note, Score

_LOWEST_PITCH, _HIGHEST_PITCH = 64, 88  # the range of a lead: E4 to E6
_MAX_NOTES_PER_S = 5.0  # on average
_MAX_TRIES = 6


class TuneFields(TypedDict):
    """The fields of a tune in JSON."""

    name: str
    tonic: int
    mode: Mode
    beats_per_bar: int
    notes: list[tuple[float, float, int]]


@dataclass(frozen=True, slots=True)
class Tune:
    """A melody as (onset, duration, MIDI number) in quarter notes from a bar line on, its key and quarters per bar."""

    name: str  # "collection/title"
    tonic: int
    mode: Mode
    beats_per_bar: int
    notes: tuple[tuple[float, float, int], ...]

    @property
    def split(self) -> str:
        """Return "train", "valid" or "test", by a hash of the name: all clips of a tune are in the same split."""
        bucket = int.from_bytes(hashlib.sha256(self.name.encode()).digest()[:4], "big") % 20
        return "test" if bucket < 3 else "valid" if bucket == 3 else "train"

    def to_json(self) -> dict[str, object]:
        """Return the tune as values that JSON can hold."""
        return asdict(self)

    @classmethod
    def from_json(cls, fields: TuneFields) -> "Tune":
        """Return the tune that `to_json` wrote."""
        notes = tuple((float(onset), float(duration), int(pitch)) for onset, duration, pitch in fields["notes"])
        return cls(fields["name"], fields["tonic"], fields["mode"], fields["beats_per_bar"], notes)


def play_tune(tune: Tune, instrument: str, seconds: float, rng: np.random.Generator) -> Score | None:
    """Draw a score of some bars of a tune, with key, tempo and accompaniment.

    Returns None if no excerpt out of `_MAX_TRIES` has a clear key.
    """
    for _ in range(_MAX_TRIES):
        score = _draw_excerpt(tune, instrument, seconds, rng)
        if score and key_is_clear(score):
            return score
    return None


def _draw_excerpt(tune: Tune, instrument: str, seconds: float, rng: np.random.Generator) -> Score | None:
    end_beat = max(onset + duration for onset, duration, _ in tune.notes)
    fastest_bpm = float(np.clip(_MAX_NOTES_PER_S * 60 * end_beat / len(tune.notes), SLOWEST_BPM, FASTEST_BPM))
    arrangement = draw_arrangement(rng, instrument, tune.mode, fastest_bpm)
    beats_per_bar = tune.beats_per_bar
    bars_wanted = int(np.ceil(seconds / (arrangement.beat_s * beats_per_bar)))
    bars_in_tune = int(end_beat // beats_per_bar)
    tune_end = bars_in_tune * beats_per_bar
    first_beat = int(rng.integers(max(bars_in_tune - bars_wanted, 0) + 1)) * beats_per_bar if rng.random() < 0.5 else 0
    excerpt_beats = tune_end - first_beat
    if excerpt_beats < 2 * beats_per_bar:
        return None
    # An excerpt shorter than the clip is repeated.
    melody = [
        (onset - first_beat + repetition * excerpt_beats, min(duration, tune_end - onset), pitch)
        for repetition in range(-(-bars_wanted * beats_per_bar // excerpt_beats))
        for onset, duration, pitch in tune.notes
        if first_beat <= onset < tune_end
        and onset - first_beat + repetition * excerpt_beats < bars_wanted * beats_per_bar
    ]
    if not melody:
        return None
    semitones = _draw_transposition([pitch for _, _, pitch in melody], rng)
    if semitones is None:
        return None
    tonic = (tune.tonic + semitones) % 12
    melody = [(onset, duration, pitch + semitones) for onset, duration, pitch in melody]
    beats_per_chord = 2 if beats_per_bar == 4 and arrangement.tempo_bpm < 140 else beats_per_bar
    chords = harmonize_melody(melody, bars_wanted * beats_per_bar, beats_per_chord, tonic, tune.mode)
    beat_s = arrangement.beat_s
    lead = [
        Note(onset * beat_s, 0.95 * duration * beat_s, pitch, 0.9 if onset % beats_per_bar == 0 else 0.8)
        for onset, duration, pitch in melody
    ]
    return arrange_score(arrangement, lead, chords, beats_per_bar, tonic, tune.name, rng)


def _draw_transposition(pitches: list[int], rng: np.random.Generator) -> int | None:
    """Draw a transposition in semitones that brings a melody into a lead's range; None if the melody is too wide."""
    lowest, highest = _LOWEST_PITCH - min(pitches), _HIGHEST_PITCH - max(pitches)
    return int(rng.integers(lowest, highest + 1)) if lowest <= highest else None
