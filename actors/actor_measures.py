"""What an actor measures of itself, for the metrics of its run."""

import sys
from collections.abc import Iterable
from dataclasses import dataclass, fields
from operator import attrgetter

from musicgen.store_requests import count_requests


@dataclass(frozen=True, slots=True)
class ActorMeasures:
    """Counts since the actor's process began, and its state now. Those of several actors add up."""

    slots: int = 0
    slots_used: int = 0
    rows_queued: int = 0  # rows that it was given and that are in no slot
    gpu_memory_bytes: int = 0
    steps: int = 0  # decode or denoising steps
    step_s: float = 0.0  # that they took
    store_requests: int = 0
    store_request_s: float = 0.0  # that they took, with their repetitions

    def __add__(self, other: "ActorMeasures") -> "ActorMeasures":
        return ActorMeasures.sum_all([self, other])

    @classmethod
    def sum_all(cls, measures: Iterable["ActorMeasures"]) -> "ActorMeasures":
        """Add up those of many actors; quicker than one by one."""
        return cls(*map(sum, zip(*map(_take_values, measures), strict=True)))

    @property
    def counts(self) -> "ActorMeasures":
        """The counts alone, which stay when the actor has ended."""
        return ActorMeasures(0, 0, 0, 0, self.steps, self.step_s, self.store_requests, self.store_request_s)


_take_values = attrgetter(*(field.name for field in fields(ActorMeasures)))


def measure_store() -> ActorMeasures:
    """Return the requests of this process to stores."""
    requests, seconds = count_requests()
    return ActorMeasures(store_requests=requests, store_request_s=seconds)


def measure_gpu_memory() -> int:
    """Return the bytes that this process holds on its GPU, as torch counts them; 0 without one."""
    torch = sys.modules.get("torch")  # an engine without it needs none
    if torch is None or not torch.cuda.is_initialized():
        return 0
    return int(torch.cuda.memory_reserved())
