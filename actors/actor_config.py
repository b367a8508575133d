"""What the actors of a run are configured with."""

from collections.abc import Callable
from dataclasses import dataclass
from uuid import uuid4

from actors.cluster import Cluster
from actors.environment import collect_versions
from musicgen.dataset import paths
from musicgen.families.family import GenerationEngine
from musicgen.job import Job
from musicgen.job_sections import AudioSettings, ModelSettings
from musicgen.plan import Plan
from musicgen.shard import strip_folder


@dataclass(frozen=True)
class ActorConfig:
    """Values that all actors of a run have in common."""

    plan: Plan
    output: str
    single_writer: bool
    store_patience_s: float
    model: ModelSettings  # the job's own, whose name may be another place of the planned checkpoint
    audio: AudioSettings
    device: str
    dtype: str
    slots: int | str  # the job's own number; "auto": the one in slots.json, which the run's first actor chooses
    cpus: float  # of the node, for each actor
    gpus: float  # 0, 1, or the fraction of a GPU that each actor has
    driver: str  # names the attempts of one driver
    driver_token: str  # the path of an object that the driver has written to the output
    versions: dict[str, str]  # of the driver
    in_process: bool = False  # the actor is the driver's own process, without Ray


EngineFactory = Callable[[ActorConfig], GenerationEngine]


def make_actor_config(job: Job, plan: Plan, cluster: Cluster) -> ActorConfig:
    """Return the configuration of a run's actors, with a new name for this driver."""
    driver = uuid4().hex[:8]
    versions = collect_versions()
    model = job.model
    # A branch may have moved since the run was planned, so the commit is named.
    if strip_folder(model.name) == plan.model.public_name:
        model = model.model_copy(update={"revision": plan.model.revision})
    if cluster.started_here:  # its actors import the driver's own files, which may be edited while they start
        versions = {name: version for name, version in versions.items() if name != "code"}
    return ActorConfig(
        plan=plan,
        output=job.output.uri,
        single_writer=job.output.single_writer,
        store_patience_s=job.cluster.store_patience_s,
        model=model,
        audio=job.audio,
        device=job.model.device if cluster.gpus_per_actor or job.model.device != "auto" else "cpu",
        dtype=job.model.dtype,
        slots=plan.slots if job.cluster.slots == "auto" else job.cluster.slots,
        cpus=cluster.cpus_per_actor,
        gpus=cluster.gpus_per_actor,
        driver=driver,
        driver_token=paths.driver_token(plan.run, driver),
        versions=versions,
        in_process=cluster.in_process,
    )
