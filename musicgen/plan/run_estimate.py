"""How long a run takes, as a value."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RunEstimate:
    """`start_s` until the first actor is ready, then `rate` seconds of audio per second of each of `actors` actors.

    `earlier_runs` counts the sessions of earlier runs that start and rate come from; 0: they come from the model's
    size. `compiles` says that the start includes compiling the CPU kernels.
    """

    audio_s: float
    start_s: float
    rate: float
    actors: int
    earlier_runs: int = 0
    compiles: bool = False

    @property
    def seconds(self) -> float:
        """Seconds from the command to its end."""
        return self.start_s + self.audio_s / (self.rate * self.actors)
