"""Renders scores to sound: each voice by itself, then mixed so that the lead is the loudest melodic voice."""

import numpy as np
from numpy.typing import NDArray

from musicgen.corpus.kit import render_hit
from musicgen.corpus.score import HAT, Score, Voice
from musicgen.corpus.timbre import RATE_HZ, render_tone

PEAK = 0.9
LOUDNESS = 0.11  # the mix's root mean square, unless its peaks would exceed PEAK
# Levels of the voices against the lead, as decibels of root mean square. They are low enough that in most frames of the
# mix the strongest pitch class is the lead's.
_LEVELS_DB: dict[Voice, float] = {"lead": 0.0, "chords": -11.0, "bass": -7.0, "drums": -6.0}
_HAT_GAIN = 0.4


def render_score(score: Score, seconds: float) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the mix, and the lead alone at its level in the mix: float32 [seconds * RATE_HZ], no sample above PEAK."""
    sample_count = round(seconds * RATE_HZ)
    voices = {voice: _render_voice(score, voice, sample_count) for voice in _LEVELS_DB}
    mix = np.zeros(sample_count, np.float32)
    for voice, sound in voices.items():
        level = float(np.sqrt(np.mean(np.square(sound))))
        if level > 0:
            sound *= np.float32(10 ** (_LEVELS_DB[voice] / 20) / level)
            mix += sound
    level, peak = float(np.sqrt(np.mean(np.square(mix)))), float(np.abs(mix).max())
    if peak == 0:
        return mix, voices["lead"]
    gain = min(LOUDNESS / level, PEAK / peak, PEAK / max(float(np.abs(voices["lead"]).max()), 1e-9))
    return mix * np.float32(gain), voices["lead"] * np.float32(gain)


def _render_voice(score: Score, voice: Voice, sample_count: int) -> NDArray[np.float32]:
    sound = np.zeros(sample_count, np.float32)
    timbre = score.instrument if voice == "lead" else voice
    for note in score.voice_notes(voice):
        start = round(note.onset_s * RATE_HZ)
        if start >= sample_count:
            break
        if voice == "drums":
            waveform = render_hit(note.pitch) * np.float32(note.velocity * (_HAT_GAIN if note.pitch == HAT else 1.0))
        else:
            # Durations are rounded to hundredths of a second, so that equal notes are found in the cache of tones.
            length = max(round(note.duration_s * 100) * RATE_HZ // 100, 160)
            waveform = render_tone(timbre, note.pitch, length, score.brightness) * np.float32(note.velocity)
        end = min(start + len(waveform), sample_count)
        sound[start:end] += waveform[: end - start]
    return sound
