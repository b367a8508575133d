"""What the actors of a run are configured with."""

from collections.abc import Callable
from dataclasses import dataclass
from uuid import uuid4

from actors.cluster import Cluster
from actors.environment import collect_versions
from actors.generation_loop import GenerationEngine
from musicgen.dataset import paths
from musicgen.job import AudioSettings, Job
from musicgen.plan import Plan


@dataclass(frozen=True)
class ActorConfig:
    """Values that all actors of a run have in common."""

    plan: Plan
    output: str
    single_writer: bool
    audio: AudioSettings
    device: str
    dtype: str
    slots: int | str  # "auto": the run's first actor chooses the number
    threads: int
    driver: str  # names the attempts of one driver
    driver_token: str  # the path of an object that the driver has written to the output
    versions: dict[str, str]  # of the driver


EngineFactory = Callable[[ActorConfig], GenerationEngine]


def make_actor_config(job: Job, plan: Plan, cluster: Cluster) -> ActorConfig:
    """Return the configuration of a run's actors, with a new name for this driver."""
    driver = uuid4().hex[:8]
    versions = collect_versions()
    if cluster.started_here:  # its actors import the driver's own files, which may be edited while they start
        versions = {name: version for name, version in versions.items() if name != "code"}
    return ActorConfig(
        plan=plan,
        output=job.output.uri,
        single_writer=job.output.single_writer,
        audio=job.audio,
        device=job.model.device if cluster.gpus_per_actor or job.model.device != "auto" else "cpu",
        dtype=job.model.dtype,
        slots=plan.slots,
        threads=cluster.threads_per_actor,
        driver=driver,
        driver_token=paths.driver_token(plan.run, driver),
        versions=versions,
    )
