"""Codebook patterns: in which step of the decoder each code is produced (Copet et al. 2023, section 2.2 and figure 1).

A layout is a list of steps, each a list of (frame, codebook); the first step is empty, since it holds only the special
token that starts a clip. The codes of step s are predicted from steps 0 .. s - 1. `build` spreads codes [codebooks,
frames] over the steps, `revert` takes them back; both work on numpy arrays of integers.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Step = list[tuple[int, int]]
Layout = list[Step]


def _delayed(delays: Sequence[int]) -> Callable[[int, int], Layout]:
    """Every codebook runs its own number of steps late; codebooks beyond the list repeat its last delay."""

    def steps(codebooks: int, frames: int) -> Layout:
        late = [delays[min(k, len(delays) - 1)] for k in range(codebooks)]
        return [
            [(step - late[k], k) for k in range(codebooks) if 0 <= step - late[k] < frames]
            for step in range(frames + max(late))
        ]

    return steps


def _delay(codebooks: int, frames: int) -> Layout:
    return _delayed(range(codebooks))(codebooks, frames)


def _stereo_delay(codebooks: int, frames: int) -> Layout:
    return _delayed([k // 2 for k in range(codebooks)])(codebooks, frames)


def _stereo_partial_delay(codebooks: int, frames: int) -> Layout:
    return _delayed([0, 0, 1])(codebooks, frames)


def _flattening(codebooks: int, frames: int) -> Layout:
    return [[(frame, k)] for frame in range(frames) for k in range(codebooks)]


def _partial_flattening(codebooks: int, frames: int) -> Layout:
    """The first codebook, then all others together, frame by frame."""
    rest = list(range(1, codebooks))
    return [step for frame in range(frames) for step in ([(frame, 0)], [(frame, k) for k in rest]) if step]


def _coarse_first(codebooks: int, frames: int) -> Layout:
    """The first codebook of the whole clip, then all others (VALL-E's order)."""
    coarse: Layout = [[(frame, 0)] for frame in range(frames)]
    return coarse + ([[(frame, k) for k in range(1, codebooks)] for frame in range(frames)] if codebooks > 1 else [])


_PATTERNS: dict[str, Callable[[int, int], Layout]] = {
    "delay": _delay,
    "partial_delay": _delayed([0, 1]),
    "parallel": _delayed([0]),
    "flattening": _flattening,
    "partial_flattening": _partial_flattening,
    "coarse_first": _coarse_first,
    "stereo_delay": _stereo_delay,
    "stereo_partial_delay": _stereo_partial_delay,
}
_ALIASES = {
    "delayed": "delay",
    "flatten": "flattening",
    "partial_flatten": "partial_flattening",
    "unroll": "flattening",
}
NAMES = tuple(_PATTERNS)


def layout(name: str, codebooks: int, frames: int) -> Layout:
    """The steps of a pattern: each (frame, codebook) exactly once, the first step empty.

    Raises ValueError for an unknown name, or if there is nothing to lay out.
    """
    if codebooks < 1 or frames < 1:
        raise ValueError(f"a pattern needs at least one codebook and one frame, not {codebooks} and {frames}")
    return [[], *_PATTERNS[canonical_name(name)](codebooks, frames)]


def canonical_name(name: str) -> str:
    """The name in `NAMES` of a pattern that a configuration may call otherwise.

    Raises ValueError for an unknown one.
    """
    name = _ALIASES.get(name, name)
    if name not in _PATTERNS:
        raise ValueError(f"unknown codebook pattern {name!r}; known are {', '.join(NAMES)}")
    return name


@lru_cache(maxsize=512)
def step_indices(name: str, codebooks: int, frames: int) -> NDArray[np.int32]:
    """The step of each code, int32 [codebooks, frames]: the layout as an array (read-only)."""
    steps = np.zeros((codebooks, frames), np.int32)
    for number, step in enumerate(layout(name, codebooks, frames)):
        for frame, codebook in step:
            steps[codebook, frame] = number
    steps.setflags(write=False)
    return steps


def count_steps(name: str, codebooks: int, frames: int) -> int:
    """Number of steps, the first one included."""
    return int(step_indices(name, codebooks, frames).max()) + 1


def build_steps(name: str, codes: NDArray[np.integer], fill: int) -> NDArray[np.integer]:
    """Codes [codebooks, frames] -> [codebooks, steps], `fill` (the special token) where a step has no code."""
    codebooks, frames = codes.shape
    steps = step_indices(name, codebooks, frames)
    sequence = np.full((codebooks, steps.max() + 1), fill, codes.dtype)
    np.put_along_axis(sequence, steps, codes, axis=1)
    return sequence


def revert_steps(name: str, sequence: NDArray[np.integer], frames: int) -> NDArray[np.integer]:
    """[codebooks, steps] -> codes [codebooks, frames].

    The inverse of `build`. Raises ValueError for a wrong number of steps.
    """
    steps = step_indices(name, sequence.shape[0], frames)
    if sequence.shape[1] != steps.max() + 1:
        raise ValueError(f"{frames} frames in the pattern {name} take {steps.max() + 1} steps, not {sequence.shape[1]}")
    return np.take_along_axis(sequence, steps, axis=1)
