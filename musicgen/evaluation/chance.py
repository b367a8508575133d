"""How far from chance: each clip judged by what it was asked for, and by what the others were asked for."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 9999


@dataclass(frozen=True, slots=True)
class PairedResult:
    """`value` with its own request, `chance` with others', `p` that a shuffling of the requests does as well; `n`
    clips.
    """

    value: float
    chance: float
    p: float
    n: int

    @property
    def ratio(self) -> float:
        """How many times chance the value is; NaN where chance is nothing."""
        return self.value / self.chance if self.chance > 0 else float("nan")


def compare_with_chance(scores: NDArray[np.float64], seed: int = 0) -> PairedResult:
    """Of `scores` [clips, clips], where [i, j] says how well clip i fits request j.

    Pairs whose own score is NaN (nothing to judge) are left out, and another's NaN counts nothing. The test is a
    permutation test of the pairing, one-sided, with 9999 shufflings (scipy), so that p is never below 1e-4. All NaN
    with fewer than two clips.
    """
    from scipy.stats import permutation_test

    scores = scores.reshape(len(scores), len(scores))  # no clips at all have no second dimension
    judged = np.isfinite(np.diagonal(scores))
    scores = np.nan_to_num(scores[np.ix_(judged, judged)])
    n = len(scores)
    if n < 2:
        return PairedResult(float("nan"), float("nan"), float("nan"), n)
    rows = np.arange(n)
    value = float(np.diagonal(scores).mean())
    others = float((scores.sum() - np.trace(scores)) / (n * (n - 1)))

    def mean_score(order: NDArray[np.int64], axis: int = -1) -> NDArray[np.float64]:
        return scores[rows, order].mean(axis=axis)

    tested = permutation_test(
        (rows,),
        mean_score,
        permutation_type="pairings",
        vectorized=True,
        n_resamples=RESAMPLES,
        alternative="greater",
        rng=seed,
        batch=500,
    )
    return PairedResult(value, others, float(tested.pvalue), n)
