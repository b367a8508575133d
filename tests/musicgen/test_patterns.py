"""Patterns: laws of the layouts, exact inverses, and the step counts of the paper's table."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from musicgen import patterns

names = st.sampled_from(patterns.NAMES)
codebooks = st.integers(1, 8)
frames = st.integers(1, 40)


@pytest.mark.parametrize(
    ("name", "k", "steps"),
    [
        ("delay", 4, 1504),
        ("partial_delay", 4, 1502),
        ("parallel", 4, 1501),
        ("flattening", 4, 6001),
        ("partial_flattening", 4, 3001),
        ("coarse_first", 4, 3001),
        ("stereo_delay", 8, 1504),
        ("stereo_partial_delay", 8, 1502),
    ],
)
def test_step_counts_of_thirty_seconds(name: str, k: int, steps: int) -> None:
    assert len(patterns.layout(name, k, 1500)) == steps == patterns.count_steps(name, k, 1500)


@given(names, codebooks, frames)
def test_every_code_is_made_once_and_the_first_step_is_empty(name: str, k: int, t: int) -> None:
    steps = patterns.layout(name, k, t)
    assert steps[0] == []
    assert all(steps[1:])
    assert sorted(code for step in steps for code in step) == [(frame, book) for frame in range(t) for book in range(k)]


@given(names, codebooks, frames)
def test_a_codebook_runs_forward_in_time(name: str, k: int, t: int) -> None:
    """Within a codebook later frames come in later steps; else a step would need its own future."""
    steps = patterns.step_indices(name, k, t)
    assert (np.diff(steps, axis=1) > 0).all()
    assert (np.diff(steps, axis=0) >= 0).all()  # and finer codebooks never come before coarser ones


@given(names, codebooks, frames, st.integers(0, 2**32 - 1))
def test_build_and_revert_are_inverse(name: str, k: int, t: int, seed: int) -> None:
    codes = np.random.default_rng(seed).integers(0, 2048, (k, t)).astype(np.int16)
    sequence = patterns.build_steps(name, codes, fill=2048)
    assert sequence.shape == (k, patterns.count_steps(name, k, t))
    assert (sequence != 2048).sum() == codes.size
    assert np.array_equal(patterns.revert_steps(name, sequence, t), codes)
    assert np.array_equal(patterns.build_steps(name, patterns.revert_steps(name, sequence, t), fill=2048), sequence)


def test_delay_is_the_papers_figure() -> None:
    assert patterns.layout("delay", 3, 2) == [[], [(0, 0)], [(1, 0), (0, 1)], [(1, 1), (0, 2)], [(1, 2)]]
    stereo = patterns.layout("stereo_delay", 4, 2)
    assert stereo == [[], [(0, 0), (0, 1)], [(1, 0), (1, 1), (0, 2), (0, 3)], [(1, 2), (1, 3)]]


@pytest.mark.parametrize("bad", [("spiral", 4, 10), ("delay", 0, 10), ("delay", 4, 0)])
def test_invalid_arguments_are_refused(bad: tuple[str, int, int]) -> None:
    with pytest.raises(ValueError, match="pattern"):
        patterns.layout(*bad)


def test_a_sequence_of_the_wrong_length_is_refused() -> None:
    with pytest.raises(ValueError, match="steps"):
        patterns.revert_steps("delay", np.zeros((4, 10), np.int16), 10)
