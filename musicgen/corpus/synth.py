"""Scores to sound: every part rendered by itself, then mixed so that the lead leads."""

import numpy as np
from numpy.typing import NDArray

from musicgen.corpus.kit import hit
from musicgen.corpus.score import HAT, Part, Score
from musicgen.corpus.timbre import RATE_HZ, tone

PEAK = 0.9
LOUDNESS = 0.11  # the mix's root mean square, where its peaks allow
# Parts against the lead, in decibels of root mean square. The chroma's argmax of the mix must mostly be the lead's.
_LEVELS_DB: dict[Part, float] = {"lead": 0.0, "chords": -11.0, "bass": -7.0, "drums": -6.0}
_HAT_GAIN = 0.4


def render(score: Score, seconds: float) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The mix and the lead alone, as it is in the mix: float32 [seconds * RATE_HZ] each, no sample above PEAK."""
    samples = round(seconds * RATE_HZ)
    parts = {name: _part(score, name, samples) for name in _LEVELS_DB}
    mix = np.zeros(samples, np.float32)
    for name, sound in parts.items():
        level = float(np.sqrt(np.mean(np.square(sound))))
        if level > 0:
            sound *= np.float32(10 ** (_LEVELS_DB[name] / 20) / level)
            mix += sound
    level, peak = float(np.sqrt(np.mean(np.square(mix)))), float(np.abs(mix).max())
    if peak == 0:
        return mix, parts["lead"]
    gain = min(LOUDNESS / level, PEAK / peak, PEAK / max(float(np.abs(parts["lead"]).max()), 1e-9))
    return mix * np.float32(gain), parts["lead"] * np.float32(gain)


def _part(score: Score, name: Part, samples: int) -> NDArray[np.float32]:
    sound = np.zeros(samples, np.float32)
    timbre = score.instrument if name == "lead" else name
    for note in score.part(name):
        start = round(note.onset_s * RATE_HZ)
        if start >= samples:
            break
        if name == "drums":
            wave = hit(note.pitch) * np.float32(note.velocity * (_HAT_GAIN if note.pitch == HAT else 1.0))
        else:
            length = max(
                round(note.duration_s * 100) * RATE_HZ // 100, 160
            )  # whole hundredths: notes come again from the cache
            wave = tone(timbre, note.pitch, length, score.brightness) * np.float32(note.velocity)
        end = min(start + len(wave), samples)
        sound[start:end] += wave[: end - start]
    return sound
