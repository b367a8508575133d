"""Whether scores are far from chance."""

import numpy as np
import pytest

from musicgen.evaluation.chance import compare_with_chance


def test_a_perfect_match_is_far_from_chance() -> None:
    result = compare_with_chance(np.eye(30))
    assert (result.value, result.chance, result.n) == (1, 0, 30)
    assert result.p < 0.001


def test_scores_that_ignore_the_request_are_chance() -> None:
    same_for_all = np.repeat(
        np.random.default_rng(0).random((30, 1)), 30, axis=1
    )  # good clips and bad ones, whatever was asked
    result = compare_with_chance(same_for_all)
    assert result.value == pytest.approx(result.chance)
    assert result.p > 0.5


def test_a_constant_answer_is_chance() -> None:
    asked = ["major"] * 20 + ["minor"] * 10
    result = compare_with_chance(np.array([[float(wish == "major") for wish in asked]] * 30))
    assert result.value == pytest.approx(2 / 3)
    assert result.p > 0.5


def test_clips_without_a_score_are_left_out() -> None:
    scores = np.eye(12)
    scores[:, 3] = np.nan
    assert compare_with_chance(scores).n == 11
    nothing = compare_with_chance(np.full((4, 4), np.nan))
    assert nothing.n == compare_with_chance(np.array([])).n == 0
    assert np.isnan(nothing.value)
