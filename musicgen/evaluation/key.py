"""Estimates a clip's key with key profiles that were counted in large corpora of scores."""

import numpy as np
from numpy.typing import NDArray

# How often each degree of the scale, in semitones above the tonic, occurs in major and in minor: Albrecht and Shanahan
# (2013), The Use of Large Corpora to Train a New Type of Key-Finding Algorithm, Music Perception 31. These profiles
# distinguish relative keys better than listeners' ratings (Krumhansl and Kessler 1982), which classify a third of minor
# pieces as major.
MAJOR = np.array([0.238, 0.006, 0.111, 0.006, 0.137, 0.094, 0.016, 0.214, 0.009, 0.080, 0.008, 0.081])
MINOR = np.array([0.220, 0.006, 0.104, 0.123, 0.019, 0.103, 0.012, 0.214, 0.062, 0.022, 0.061, 0.052])

_COMPRESSION = 100.0


def estimate_key(chroma: NDArray[np.float32]) -> tuple[int, str] | None:
    """Estimate the likeliest of the 24 keys: tonic (0 = C) and "major" or "minor"; None for silence.

    It is the key whose profile correlates best with the sums of the pitch classes of `chroma` [frames, 12]. Energies
    are compressed by a logarithm, so that quiet chords count next to a loud lead.
    """
    loudest = float(chroma.max()) if chroma.size else 0.0
    if loudest <= 0:
        return None
    weights = np.log1p(_COMPRESSION / loudest * chroma).sum(axis=0)  # [12]
    if np.ptp(weights) == 0:
        return None
    candidates = [
        (_correlate(np.roll(profile, tonic), weights), tonic, mode)
        for mode, profile in _PROFILES
        for tonic in range(12)
    ]
    _, tonic, mode = max(candidates)
    return tonic, mode


_PROFILES = (("major", MAJOR), ("minor", MINOR))


def _correlate(profile: NDArray[np.float64], weights: NDArray[np.float32]) -> float:
    return float(np.corrcoef(profile, weights)[0, 1])
