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
    gpus_each: float = 0.0  # of an actor

    @property
    def seconds(self) -> float:
        """Seconds from the command to its end."""
        return self.start_s + self.audio_s / (self.rate * self.actors)

    @property
    def actor_hours(self) -> float:
        """Hours that actors are held, all together; each is, from the start of the first to the end."""
        return self.seconds * self.actors / 3600

    @property
    def gpu_hours(self) -> float:
        """Hours that GPUs are held, all together."""
        return self.actor_hours * self.gpus_each
