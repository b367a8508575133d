"""What a clip is before it sounds: notes, and the facts that its caption tells."""

from dataclasses import dataclass
from typing import Any, Literal

Mode = Literal["major", "minor"]
Part = Literal["lead", "chords", "bass", "drums"]

INSTRUMENTS = ("piano", "guitar", "organ", "flute", "strings", "bell")
TONICS = ("C", "C sharp", "D", "E flat", "E", "F", "F sharp", "G", "A flat", "A", "B flat", "B")  # as captions say them
SCALES: dict[Mode, tuple[int, ...]] = {"major": (0, 2, 4, 5, 7, 9, 11), "minor": (0, 2, 3, 5, 7, 8, 10)}
LEADING_TONE = 11  # semitones above the tonic: what harmonic minor has in place of its seventh degree

KICK, SNARE, HAT = 36.0, 38.0, 42.0  # General MIDI's drum keys, the `pitch` of notes of the part "drums"


@dataclass(frozen=True, slots=True)
class Note:
    """One note: when (s), how high (MIDI number, 69 = A4 = 440 Hz), how loud (0..1), and in which part."""

    onset_s: float
    duration_s: float
    pitch: float
    velocity: float = 0.8
    part: Part = "lead"


@dataclass(frozen=True, slots=True)
class Score:
    """A clip as notes, with what is true of it. `tonic` is a pitch class (0 = C); beats begin at 0 s."""

    notes: tuple[Note, ...]
    tempo_bpm: float
    tonic: int
    mode: Mode
    instrument: str  # the lead's, one of INSTRUMENTS
    drums: bool
    mood: str
    source: str  # "composed", or the tune's name
    brightness: float = 1.0  # of the sound: 1 as the instrument is, less is duller

    def part(self, name: Part) -> list[Note]:
        """The notes of one part, in order of onset."""
        return sorted((note for note in self.notes if note.part == name), key=lambda note: (note.onset_s, note.pitch))

    def facts(self) -> dict[str, Any]:
        """What a corpus' table says of the clip."""
        return {
            "instrument": self.instrument,
            "tempo_bpm": self.tempo_bpm,
            "tonic": TONICS[self.tonic],
            "mode": self.mode,
            "drums": self.drums,
            "mood": self.mood,
            "source": self.source,
        }


def pitch(tonic: int, mode: Mode, degree: int, raised_seventh: bool = False) -> int:
    """The MIDI number of a scale degree: 0 is the tonic in the octave above middle C (60..71), 7 the octave above it."""
    octave, step = divmod(degree, 7)
    raised = raised_seventh and mode == "minor" and step == 6
    return 60 + tonic + 12 * octave + (LEADING_TONE if raised else SCALES[mode][step])
