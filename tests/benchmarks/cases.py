"""The cases, and what a result looks like."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Case:
    """A workload for both sides. `frames` 0 means the mixed manifest; `repeats` are taken one after the other."""

    name: str
    clips: int
    frames: int
    repeats: int
    goal: float  # the ratio that issue and README ask for

    @property
    def mixed(self) -> bool:
        """Durations of 2 to 12 s in manifest order."""
        return self.frames == 0


CASES = {
    case.name: case
    for case in (
        Case("1x60", 1, 60, 5, 1.4),
        Case("8x60", 8, 60, 3, 1.6),
        Case("32x60", 32, 60, 1, 1.8),
        Case("32x400", 32, 400, 1, 3.5),
        Case("mixed", 48, 0, 1, 3.0),  # as many of them as the peer can make in MIXED_PEER_S
    )
}
PROFILE = "profile"  # the step at 32 x 400, operation by operation, and its cost against position and allocation
FLOW = "flow"  # the whole flow against the bare engine
CUDA_STEP = "cuda-step"  # kernels and bytes of a step on a GPU, counted without one (tests/cuda_trace)
ALL = (*CASES, PROFILE, FLOW, CUDA_STEP)
MIXED_PEER_S = 330.0
MIXED_SLOTS = 16
