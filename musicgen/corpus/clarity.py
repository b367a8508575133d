"""Whether the key of a score can be heard, from its notes: captions must be true to the ear, not only to the plan."""

import numpy as np

from musicgen.corpus.score import Part, Score

# Temperley (1999), What's key for key? Music Perception 17: his profiles, not the ones that the evaluation judges by.
_MAJOR = np.array([5.0, 2.0, 3.5, 2.0, 4.5, 4.0, 2.0, 4.5, 2.0, 3.5, 1.5, 4.0])
_MINOR = np.array([5.0, 2.0, 3.5, 4.5, 2.0, 4.0, 2.0, 4.5, 3.5, 2.0, 1.5, 4.0])
_LOUD: dict[Part, float] = {"lead": 1.0, "chords": 0.35, "bass": 0.3, "drums": 0.0}


def key_is_clear(score: Score, margin: float = 0.03) -> bool:
    """Whether the score's own key fits the time that its pitch classes sound better than every other, by `margin` of correlation."""
    weight = np.zeros(12)
    for note in score.notes:
        weight[round(note.pitch) % 12] += note.duration_s * _LOUD[note.part]
    if np.ptp(weight) == 0:
        return False
    fits = {
        (tonic, mode): float(np.corrcoef(np.roll(profile, tonic), weight)[0, 1])
        for mode, profile in (("major", _MAJOR), ("minor", _MINOR))
        for tonic in range(12)
    }
    own = fits.pop((score.tonic, score.mode))
    return own >= max(fits.values()) + margin
