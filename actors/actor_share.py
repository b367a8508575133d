"""How a cluster's CPUs and GPUs are shared between actors: what one gets, and how many there are by default."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from musicgen.cluster_settings import ClusterSettings
from musicgen.model.processor import usable_cpus

GPU_ACTOR_CPUS = 4  # engine, codec, conditions, and the writers that encode its clips
MOST_SHARED_CPUS = 16  # of an actor on CPUs that has others beside it: more threads gain little, and cross sockets
_GPU_DEVICES = ("nvidia[0-9]*", "kfd", "dxg")  # of NVIDIA, AMD, and Windows' subsystem, in /dev


@dataclass(frozen=True, slots=True)
class NodeSize:
    """What a node offers."""

    cpus: float
    gpus: float = 0.0


@dataclass(frozen=True, slots=True)
class ActorShare:
    """What one actor gets. `auto_actors` is the number that `cluster.actors: auto` stands for."""

    cpus: float
    gpus: float
    auto_actors: int


def share_nodes(settings: ClusterSettings, device: str, nodes: Sequence[NodeSize]) -> ActorShare:
    """Share the nodes between actors as the job demands; `device` is `model.device`.

    By default an actor has a GPU where there are any (and 4 CPUs, or as many as its node has for each), and there are
    as many actors as that makes. Without GPUs there is one actor, with all CPUs of its node.
    """
    if settings.gpus_per_actor != "auto":
        gpus = settings.gpus_per_actor
    else:
        gpus = 1.0 if device != "cpu" and any(node.gpus >= 1 for node in nodes) else 0.0
    on_one_gpu = int(1 / gpus + 1e-6) if gpus else 0  # Ray puts a fraction on one card
    places = [(node, int(node.gpus) * on_one_gpu if gpus else 1) for node in nodes]
    places = [(node, count) for node, count in places if count and (gpus or node.cpus)]
    auto_actors = max(1, sum(count for _, count in places)) if gpus else 1
    most = settings.resolve_actors(auto_actors)[1]
    if settings.cpus_per_actor != "auto":
        cpus = settings.cpus_per_actor
    elif gpus:
        shares = [node.cpus / min(count, most) for node, count in places]
        cpus = _round_share(min([GPU_ACTOR_CPUS, *shares]))
    else:
        beside = -(-most // max(1, len(places)))  # actors on one node
        cpus = max(1.0, float(min((node.cpus for node, _ in places), default=1.0) // beside))
        cpus = min(cpus, MOST_SHARED_CPUS) if beside > 1 else cpus
    return ActorShare(float(cpus), float(gpus), auto_actors)


def find_local_node() -> NodeSize:
    """Return what Ray will find on this machine, without starting it."""
    return NodeSize(float(usable_cpus()), float(_count_local_gpus()))


def choose_threads(share: float, node_cpus: float) -> int:
    """Return the CPU threads of an actor that has `share` of the `node_cpus` CPUs that Ray knows of on its node.

    Ray counts CPUs that the affinity or a container's quota may withhold from this process: then its share is of those
    that are left. `node_cpus` 0: not known.
    """
    usable = usable_cpus()
    if node_cpus > usable:
        share *= usable / node_cpus
    return max(1, min(int(share + 1e-6), usable))


def _round_share(cpus: float) -> float:
    """Round down to whole CPUs; less than one to hundredths, which Ray knows too."""
    return float(int(cpus)) if cpus >= 1 else int(cpus * 100) / 100


def _count_local_gpus() -> int:
    """Count the GPUs of this machine as Ray does; machines without a driver are told apart without importing it."""
    if not any(any(Path("/dev").glob(pattern)) for pattern in _GPU_DEVICES):
        return 0
    from ray._private.accelerators import get_accelerator_manager_for_resource

    manager = get_accelerator_manager_for_resource("GPU")
    count: int = manager.get_current_node_num_accelerators()
    visible = manager.get_current_process_visible_accelerator_ids()
    return count if visible is None else min(count, len(visible))
