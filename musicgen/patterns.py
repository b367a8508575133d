"""Codebook patterns: in which step of the decoder each code is predicted (Copet et al. 2023, section 2.2 and figure 1).

A layout is a list of steps, each a list of (frame, codebook). The first step is empty, since it holds only the special
token that starts a clip. The codes of step s are predicted from steps 0 .. s - 1. `build_steps` moves codes [codebooks,
frames] to their steps, `revert_steps` moves them back; both work on numpy arrays of integers.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Codes = NDArray[np.integer]
"""Codes of an RVQ codec, [..., codebooks, frames], of any integer type."""


Step = list[tuple[int, int]]
Layout = list[Step]


def _make_delay_pattern(delays: Sequence[int]) -> Callable[[int, int], Layout]:
    """Make the pattern that delays each codebook by its number of steps; later codebooks repeat the last delay."""

    def lay_out(codebooks: int, frames: int) -> Layout:
        codebook_delays = [delays[min(codebook, len(delays) - 1)] for codebook in range(codebooks)]
        return [
            [
                (step - codebook_delays[codebook], codebook)
                for codebook in range(codebooks)
                if 0 <= step - codebook_delays[codebook] < frames
            ]
            for step in range(frames + max(codebook_delays))
        ]

    return lay_out


def _lay_out_delay(codebooks: int, frames: int) -> Layout:
    return _make_delay_pattern(range(codebooks))(codebooks, frames)


def _lay_out_stereo_delay(codebooks: int, frames: int) -> Layout:
    return _make_delay_pattern([codebook // 2 for codebook in range(codebooks)])(codebooks, frames)


def _lay_out_stereo_partial_delay(codebooks: int, frames: int) -> Layout:
    return _make_delay_pattern([0, 0, 1])(codebooks, frames)


def _lay_out_flattening(codebooks: int, frames: int) -> Layout:
    return [[(frame, codebook)] for frame in range(frames) for codebook in range(codebooks)]


def _lay_out_partial_flattening(codebooks: int, frames: int) -> Layout:
    """Lay out the first codebook, then all others together, frame by frame."""
    other_codebooks = list(range(1, codebooks))
    return [
        step
        for frame in range(frames)
        for step in ([(frame, 0)], [(frame, codebook) for codebook in other_codebooks])
        if step
    ]


def _lay_out_coarse_first(codebooks: int, frames: int) -> Layout:
    """Lay out the first codebook of the whole clip, then all others (the order of VALL-E)."""
    first_steps: Layout = [[(frame, 0)] for frame in range(frames)]
    return first_steps + (
        [[(frame, codebook) for codebook in range(1, codebooks)] for frame in range(frames)] if codebooks > 1 else []
    )


_PATTERNS: dict[str, Callable[[int, int], Layout]] = {
    "delay": _lay_out_delay,
    "partial_delay": _make_delay_pattern([0, 1]),
    "parallel": _make_delay_pattern([0]),
    "flattening": _lay_out_flattening,
    "partial_flattening": _lay_out_partial_flattening,
    "coarse_first": _lay_out_coarse_first,
    "stereo_delay": _lay_out_stereo_delay,
    "stereo_partial_delay": _lay_out_stereo_partial_delay,
}
_ALIASES = {
    "delayed": "delay",
    "flatten": "flattening",
    "partial_flatten": "partial_flattening",
    "unroll": "flattening",
}
NAMES = tuple(_PATTERNS)


def layout(name: str, codebooks: int, frames: int) -> Layout:
    """Return the steps of a pattern: each (frame, codebook) exactly once, the first step empty.

    Raises ValueError for an unknown name, and without codebooks or frames.
    """
    if codebooks < 1 or frames < 1:
        raise ValueError(f"a pattern needs at least one codebook and one frame, not {codebooks} and {frames}")
    return [[], *_PATTERNS[canonical_name(name)](codebooks, frames)]


def canonical_name(name: str) -> str:
    """Return the name in `NAMES` of a pattern, given that name or another spelling of it in a configuration.

    Raises ValueError for an unknown name.
    """
    name = _ALIASES.get(name, name)
    if name not in _PATTERNS:
        raise ValueError(f"unknown codebook pattern {name!r}; known are {', '.join(NAMES)}")
    return name


@lru_cache(maxsize=512)
def step_indices(name: str, codebooks: int, frames: int) -> NDArray[np.int32]:
    """Return the step of each code, int32 [codebooks, frames], read-only: the layout as an array."""
    steps = np.zeros((codebooks, frames), np.int32)
    for step_index, step in enumerate(layout(name, codebooks, frames)):
        for frame, codebook in step:
            steps[codebook, frame] = step_index
    steps.setflags(write=False)
    return steps


def count_steps(name: str, codebooks: int, frames: int) -> int:
    """Return the number of steps, including the empty first one."""
    return int(step_indices(name, codebooks, frames).max()) + 1


def build_steps(name: str, codes: Codes, fill: int) -> Codes:
    """Arrange codes [codebooks, frames] by steps: [codebooks, steps], with `fill` (the special token) in the gaps."""
    codebooks, frames = codes.shape
    steps = step_indices(name, codebooks, frames)
    sequence = np.full((codebooks, steps.max() + 1), fill, codes.dtype)
    np.put_along_axis(sequence, steps, codes, axis=1)
    return sequence


def revert_steps(name: str, sequence: Codes, frames: int) -> Codes:
    """Take the codes [codebooks, frames] out of a sequence [codebooks, steps]: the inverse of `build_steps`.

    Raises ValueError for a wrong number of steps.
    """
    steps = step_indices(name, sequence.shape[0], frames)
    if sequence.shape[1] != steps.max() + 1:
        raise ValueError(f"{frames} frames in the pattern {name} take {steps.max() + 1} steps, not {sequence.shape[1]}")
    return np.take_along_axis(sequence, steps, axis=1)
