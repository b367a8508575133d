"""Checks whether a score's notes establish its key, so that a caption that names the key is true of the sound."""

import numpy as np

from musicgen.corpus.score import Score, Voice

# Key profiles of Temperley (1999), What's key for key? Music Perception 17. The evaluation judges by other profiles.
_MAJOR = np.array([5.0, 2.0, 3.5, 2.0, 4.5, 4.0, 2.0, 4.5, 2.0, 3.5, 1.5, 4.0])
_MINOR = np.array([5.0, 2.0, 3.5, 4.5, 2.0, 4.0, 2.0, 4.5, 3.5, 2.0, 1.5, 4.0])
_VOICE_WEIGHTS: dict[Voice, float] = {"lead": 1.0, "chords": 0.35, "bass": 0.3, "drums": 0.0}


def key_is_clear(score: Score, margin: float = 0.03) -> bool:
    """Return whether the score's own key correlates better with its pitch classes than every other key, by `margin`.

    Each pitch class is weighted by how long it sounds, and by the loudness of the voices that play it.
    """
    weights = np.zeros(12)
    for note in score.notes:
        weights[round(note.pitch) % 12] += note.duration_s * _VOICE_WEIGHTS[note.voice]
    if np.ptp(weights) == 0:
        return False
    correlations = {
        (tonic, mode): float(np.corrcoef(np.roll(profile, tonic), weights)[0, 1])
        for mode, profile in (("major", _MAJOR), ("minor", _MINOR))
        for tonic in range(12)
    }
    own_correlation = correlations.pop((score.tonic, score.mode))
    return own_correlation >= max(correlations.values()) + margin
