"""Scores clips against their own requests and against those of other clips, to see how far results are from chance."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 9999


@dataclass(frozen=True, slots=True)
class PairedResult:
    """The mean score of `n` clips.

    `value` is the mean with each clip's own request, `chance` that with others' requests, and `p` the probability that
    shuffled requests reach `value`.
    """

    value: float
    chance: float
    p: float
    n: int

    @property
    def ratio(self) -> float:
        """Return `value` as a multiple of `chance`; NaN if `chance` is 0."""
        return self.value / self.chance if self.chance > 0 else float("nan")


def compare_with_chance(scores: NDArray[np.float64], seed: int = 0) -> PairedResult:
    """Compare the diagonal of `scores` [clips, clips] with the rest; [i, j] is how well clip i fits request j.

    Clips whose own score is NaN (nothing to measure) are left out; any other NaN counts as 0. `p` comes from a
    one-sided permutation test of the pairing with 9999 shufflings (scipy), so it is never below 1e-4. With fewer than
    two clips all values are NaN.
    """
    from scipy.stats import permutation_test

    scores = scores.reshape(len(scores), len(scores))  # without clips there is no second dimension
    judged = np.isfinite(np.diagonal(scores))
    scores = np.nan_to_num(scores[np.ix_(judged, judged)])
    clip_count = len(scores)
    if clip_count < 2:
        return PairedResult(float("nan"), float("nan"), float("nan"), clip_count)
    rows = np.arange(clip_count)
    value = float(np.diagonal(scores).mean())
    chance = float((scores.sum() - np.trace(scores)) / (clip_count * (clip_count - 1)))

    def mean_score(order: NDArray[np.int64], axis: int = -1) -> NDArray[np.float64]:
        return scores[rows, order].mean(axis=axis)

    test = permutation_test(
        (rows,),
        mean_score,
        permutation_type="pairings",
        vectorized=True,
        n_resamples=RESAMPLES,
        alternative="greater",
        rng=seed,
        batch=500,
    )
    return PairedResult(value, chance, float(test.pvalue), clip_count)
