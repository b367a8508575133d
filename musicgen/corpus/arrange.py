"""Draws a clip's tempo, mood and accompaniment at random, and arranges a lead melody with that accompaniment.

Composed pieces (`compose.py`) and public-domain tunes (`tune.py`) share it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from musicgen.corpus.harmony import ACCOMPANIMENT_STYLES, Chord, bass_notes, chord_notes, drum_notes
from musicgen.corpus.score import INSTRUMENTS, Mode, Note, Score

SLOWEST_BPM, FASTEST_BPM = 60, 180
SLOW_BPM, FAST_BPM = 86, 126  # captions call tempi below the first slow, above the second fast

# Moods by mode and tempo class. Those listed in _DULL and _BRIGHT also change the brightness of the sound.
_MOODS: dict[tuple[Mode, str], tuple[str, ...]] = {
    ("major", "slow"): ("calm", "gentle", "peaceful", "warm", "tender", "lo-fi"),
    ("major", "moderate"): ("happy", "warm", "bright", "hopeful", "playful", "lo-fi"),
    ("major", "fast"): ("happy", "joyful", "bright", "lively", "energetic", "cheerful"),
    ("minor", "slow"): ("sad", "melancholic", "dark", "dreamy", "lonely", "lo-fi"),
    ("minor", "moderate"): ("sad", "dark", "mysterious", "nostalgic", "dramatic", "lo-fi"),
    ("minor", "fast"): ("tense", "dark", "dramatic", "urgent", "restless", "fiery"),
}
MOODS = tuple(sorted({mood for moods in _MOODS.values() for mood in moods}))
_DULL = {"warm": 0.7, "lo-fi": 0.5, "dark": 0.7, "calm": 0.8, "gentle": 0.8}
_BRIGHT = {"bright": 1.25, "energetic": 1.2, "fiery": 1.2, "cheerful": 1.1}


@dataclass(frozen=True, slots=True)
class Arrangement:
    """The properties of a clip that are drawn before its notes."""

    instrument: str
    tempo_bpm: float
    mode: Mode
    drums: bool
    mood: str
    style: str  # of the accompaniment, one of harmony.ACCOMPANIMENT_STYLES
    bass: int  # bass notes: 0 one per chord, 1 one every second beat, 2 one every beat; -1 no bass

    @property
    def beat_s(self) -> float:
        """Seconds per beat."""
        return 60.0 / self.tempo_bpm


def classify_tempo(tempo_bpm: float) -> str:
    """Return "slow", "moderate" or "fast"."""
    return "slow" if tempo_bpm < SLOW_BPM else "fast" if tempo_bpm > FAST_BPM else "moderate"


def draw_arrangement(
    rng: np.random.Generator, instrument: str, mode: Mode, fastest_bpm: float = FASTEST_BPM
) -> Arrangement:
    """Draw tempo, drums, mood, style and bass for an instrument and a mode.

    Tempi are uniform in their logarithm, up to `fastest_bpm`; about two clips of three have drums.
    """
    tempo_bpm = float(round(np.exp(rng.uniform(np.log(SLOWEST_BPM), np.log(max(fastest_bpm, SLOWEST_BPM + 1))))))
    drums = bool(rng.random() < 0.65)
    moods = _MOODS[mode, classify_tempo(tempo_bpm)]
    style = ACCOMPANIMENT_STYLES[rng.choice(len(ACCOMPANIMENT_STYLES), p=(0.3, 0.25, 0.25, 0.2))]
    bass = int(rng.integers(0, 3)) if rng.random() < 0.8 or drums else -1
    return Arrangement(instrument, tempo_bpm, mode, drums, moods[rng.integers(len(moods))], style, bass)


def instrument_of_clip(clip_index: int) -> str:
    """Return the instrument of a clip of the corpus: the instruments take turns."""
    return INSTRUMENTS[clip_index % len(INSTRUMENTS)]


def arrange_score(
    arrangement: Arrangement,
    lead: Sequence[Note],
    chords: Sequence[Chord],
    beats_per_bar: int,
    tonic: int,
    source: str,
    rng: np.random.Generator,
) -> Score:
    """Return the score of a lead with the chords, bass and drums of its arrangement."""
    beats = int(max(chord.start + chord.beats for chord in chords))
    notes = list(lead)
    notes += chord_notes(chords, arrangement.style, tonic, arrangement.mode, arrangement.beat_s)
    if arrangement.bass >= 0:
        notes += bass_notes(chords, arrangement.bass, tonic, arrangement.mode, arrangement.beat_s)
    if arrangement.drums:
        notes += drum_notes(beats, beats_per_bar, arrangement.beat_s, rng)
    brightness = _DULL.get(arrangement.mood, 1.0) * _BRIGHT.get(arrangement.mood, 1.0)
    return Score(
        tuple(notes),
        arrangement.tempo_bpm,
        tonic,
        arrangement.mode,
        arrangement.instrument,
        arrangement.drums,
        arrangement.mood,
        source,
        brightness,
    )
