"""Defines the score of a clip: its notes, and the facts that its caption states."""

from dataclasses import dataclass
from typing import Literal

Mode = Literal["major", "minor"]
Voice = Literal["lead", "chords", "bass", "drums"]

INSTRUMENTS = ("piano", "guitar", "organ", "flute", "strings", "bell")
TONICS = ("C", "C sharp", "D", "E flat", "E", "F", "F sharp", "G", "A flat", "A", "B flat", "B")  # as captions say them
SCALES: dict[Mode, tuple[int, ...]] = {"major": (0, 2, 4, 5, 7, 9, 11), "minor": (0, 2, 3, 5, 7, 8, 10)}
LEADING_TONE = 11  # semitones above the tonic; the raised seventh degree of harmonic minor

KICK, SNARE, HAT = 36.0, 38.0, 42.0  # General MIDI drum keys: the `pitch` of notes of the voice "drums"


@dataclass(frozen=True, slots=True)
class Note:
    """One note. `pitch` is a MIDI number (69 = A4 = 440 Hz), `velocity` a loudness in 0 .. 1."""

    onset_s: float
    duration_s: float
    pitch: float
    velocity: float = 0.8
    voice: Voice = "lead"


@dataclass(frozen=True, slots=True)
class Score:
    """The notes of a clip, and the facts about it. `tonic` is a pitch class (0 = C); the first beat is at 0 s."""

    notes: tuple[Note, ...]
    tempo_bpm: float
    tonic: int
    mode: Mode
    instrument: str  # the lead's, one of INSTRUMENTS
    drums: bool
    mood: str
    source: str  # "composed", or the tune's name
    brightness: float = 1.0  # 1 is the instrument's own sound, less is duller

    def voice_notes(self, voice: Voice) -> list[Note]:
        """Return the notes of one voice, in order of onset."""
        return sorted((note for note in self.notes if note.voice == voice), key=lambda note: (note.onset_s, note.pitch))

    def facts(self) -> dict[str, object]:
        """Return the columns of captions.parquet that describe the clip."""
        return {
            "instrument": self.instrument,
            "tempo_bpm": self.tempo_bpm,
            "tonic": TONICS[self.tonic],
            "mode": self.mode,
            "drums": self.drums,
            "mood": self.mood,
            "source": self.source,
        }


def scale_pitch(tonic: int, mode: Mode, degree: int, raised_seventh: bool = False) -> int:
    """Return the MIDI number of a scale degree: 0 is the tonic in 60 .. 71, 7 the tonic an octave above."""
    octave, step = divmod(degree, 7)
    raised = raised_seventh and mode == "minor" and step == 6
    return 60 + tonic + 12 * octave + (LEADING_TONE if raised else SCALES[mode][step])
