"""The actors that a run will have: its shards are cut for them, and its time is estimated from them."""

from dataclasses import dataclass, field
from typing import Literal

from musicgen.job import Job

ActorsStart = Literal["local_ray", "joined", "in_process"]
"""What comes before actors: a Ray that is started on this machine, one that is joined, or none."""


@dataclass(frozen=True, slots=True)
class ExpectedActors:
    """From `fewest` to `most` actors, each with `gpus_each` of a GPU (0: they compute on CPUs).

    `threads` are the CPU threads of each; 0: not known.
    """

    fewest: int = 1
    most: int = 1
    gpus_each: float = 0.0
    threads: int = field(default=0, compare=False)
    start: ActorsStart = field(default="local_ray", compare=False)

    def __str__(self) -> str:
        count = f"{self.fewest} to {self.most}" if self.most > self.fewest else str(self.most)
        actors = f"{count} actor{'s' if self.most > 1 else ''}"
        if not self.gpus_each:
            return f"{actors} on CPUs"
        share = "a GPU" if self.gpus_each == 1 else f"{self.gpus_each:g} of a GPU"
        return f"{actors} with {share}{' each' if self.most > 1 else ''}"


def expect_actors_of_job(job: Job) -> ExpectedActors:
    """Return the actors that the job says, where no cluster was asked: `auto` is one actor, without a GPU."""
    fewest, most = job.cluster.resolve_actors(auto=1)
    gpus = job.cluster.gpus_per_actor
    if gpus == "auto":
        gpus = 1.0 if job.model.device.startswith("cuda") else 0.0
    return ExpectedActors(fewest, most, gpus)
