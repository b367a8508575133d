"""What a clip is given at random before a note is chosen, and the band around a melody: shared by compositions and tunes."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from musicgen.corpus.harmony import STYLES, Chord, bass_part, chords_part, drums_part
from musicgen.corpus.score import INSTRUMENTS, Mode, Note, Score

SLOWEST_BPM, FASTEST_BPM = 60, 180
SLOW_BPM, FAST_BPM = 86, 126  # below is called slow, above fast

# Moods by mode and pace. The ones of _DULL and _BRIGHT change the sound too.
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
class Plan:
    """What is settled of a clip before its notes."""

    instrument: str
    tempo_bpm: float
    mode: Mode
    drums: bool
    mood: str
    style: str  # of the accompaniment, one of harmony.STYLES
    bass: int  # notes: 0 a chord, 1 every second beat, 2 every beat; -1 no bass

    @property
    def beat_s(self) -> float:
        """Seconds a beat."""
        return 60.0 / self.tempo_bpm


def pace(tempo_bpm: float) -> str:
    """slow, moderate or fast."""
    return "slow" if tempo_bpm < SLOW_BPM else "fast" if tempo_bpm > FAST_BPM else "moderate"


def draw_plan(rng: np.random.Generator, instrument: str, mode: Mode, fastest_bpm: float = FASTEST_BPM) -> Plan:
    """Everything else at random: tempi evenly in their logarithm, drums in two clips of three."""
    tempo = float(round(np.exp(rng.uniform(np.log(SLOWEST_BPM), np.log(max(fastest_bpm, SLOWEST_BPM + 1))))))
    drums = bool(rng.random() < 0.65)
    moods = _MOODS[mode, pace(tempo)]
    style = STYLES[rng.choice(len(STYLES), p=(0.3, 0.25, 0.25, 0.2))]
    bass = int(rng.integers(0, 3)) if rng.random() < 0.8 or drums else -1
    return Plan(instrument, tempo, mode, drums, moods[rng.integers(len(moods))], style, bass)


def instrument_of(n: int) -> str:
    """Instruments in turn."""
    return INSTRUMENTS[n % len(INSTRUMENTS)]


def arrange(
    plan: Plan,
    lead: Sequence[Note],
    chords: Sequence[Chord],
    beats_per_bar: int,
    tonic: int,
    source: str,
    rng: np.random.Generator,
) -> Score:
    """The score of a lead with its band: chords, bass and drums as the plan has them."""
    beats = int(max(chord.start + chord.beats for chord in chords))
    notes = list(lead)
    notes += chords_part(chords, plan.style, tonic, plan.mode, plan.beat_s)
    if plan.bass >= 0:
        notes += bass_part(chords, plan.bass, tonic, plan.mode, plan.beat_s)
    if plan.drums:
        notes += drums_part(beats, beats_per_bar, plan.beat_s, rng)
    brightness = _DULL.get(plan.mood, 1.0) * _BRIGHT.get(plan.mood, 1.0)
    return Score(
        tuple(notes), plan.tempo_bpm, tonic, plan.mode, plan.instrument, plan.drums, plan.mood, source, brightness
    )
