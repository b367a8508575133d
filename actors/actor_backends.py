"""Chooses what actors are: Ray's, or the driver's own process."""

from actors.actor_config import ActorConfig, EngineFactory
from actors.actor_replies import ActorGroup, NodeWatch
from actors.cluster import Cluster


def make_actors(
    cluster: Cluster, config: ActorConfig, make_engine: EngineFactory, attempts_per_actor: int
) -> tuple[ActorGroup, NodeWatch]:
    """Return the actors of Ray, or of this process, and what watches their machines."""
    if cluster.in_process:
        from actors.in_process_actors import InProcessActors, OneProcessWatch

        return InProcessActors(config, make_engine), OneProcessWatch()
    from actors.cluster_watch import ClusterWatch  # these import Ray
    from actors.ray_actors import RayActors

    return RayActors(cluster, config, make_engine, attempts_per_actor), ClusterWatch(cluster)
