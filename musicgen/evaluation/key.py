"""Major or minor, by the key profiles of Krumhansl and Kessler (1982)."""

import numpy as np
from numpy.typing import NDArray

# Probe-tone ratings, C major and C minor (Krumhansl & Kessler 1982, Psychological Review 89, table 2).
MAJOR = np.array([6.35, 2.23, 3.48, 2.33, 4.38, 4.09, 2.52, 5.19, 2.39, 3.66, 2.29, 2.88])
MINOR = np.array([6.33, 2.68, 3.52, 5.38, 2.60, 3.53, 2.54, 4.75, 3.98, 2.69, 3.34, 3.17])


def key(chroma: NDArray[np.float32]) -> tuple[int, str] | None:
    """The likeliest of the 24 keys: tonic (0 = C) and "major" or "minor"; None for silence.

    The profile that correlates best with how long each pitch class sounds in `chroma` [frames, 12]: every frame counts by
    its shares, and by the square root of its energy, so that one loud note does not decide.
    """
    energy = chroma.sum(axis=1, keepdims=True)
    if not len(chroma) or energy.max() <= 0:
        return None
    weight = (chroma / np.sqrt(np.maximum(energy, 1e-6 * energy.max()))).sum(axis=0)  # [12]
    if np.ptp(weight) == 0:
        return None
    fits = [(_fit(np.roll(profile, tonic), weight), tonic, mode) for mode, profile in _PROFILES for tonic in range(12)]
    _, tonic, mode = max(fits)
    return tonic, mode


_PROFILES = (("major", MAJOR), ("minor", MINOR))


def _fit(profile: NDArray[np.float64], weight: NDArray[np.float32]) -> float:
    return float(np.corrcoef(profile, weight)[0, 1])
