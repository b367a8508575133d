"""What an actor computes with: the GPU that Ray has given it, or CPU threads of its node."""

import platform

from actors.actor_config import ActorConfig
from actors.actor_share import choose_threads
from musicgen.errors import ModelError

CPU = "cpu"


def prepare_device(config: ActorConfig) -> None:
    """Check that torch sees the GPU of an actor that has one, and keep this process within its fraction of it.

    Raises `ModelError`: the actor would compute on the CPU, and its GPU would do nothing.
    """
    if not config.gpus or config.device == CPU:
        return
    import torch

    if not torch.cuda.is_available():
        reason = (
            f"torch {torch.__version__} is a build without CUDA"
            if torch.version.cuda is None and torch.version.hip is None
            else f"torch {torch.__version__} finds no driver that it can use"
        )
        raise ModelError(
            f"the worker on {platform.node()} was given a GPU, but {reason}; install one that fits its driver (`pip "
            "install --force-reinstall torch --index-url https://download.pytorch.org/whl/cu126`, or cu130), or set "
            "cluster.gpus_per_actor=0 to compute on CPUs"
        )
    if config.gpus < 1:
        torch.cuda.set_per_process_memory_fraction(config.gpus)


def name_device(config: ActorConfig) -> str:
    """Return the name of the GPU that this process computes on, and of its fraction; else "cpu"."""
    if config.device == CPU:
        return CPU
    import torch

    if not torch.cuda.is_available():
        return CPU
    name: str = torch.cuda.get_device_name()
    return f"{name} {config.gpus:g}" if 0 < config.gpus < 1 else name


def count_threads(config: ActorConfig) -> int:
    """Return the CPU threads of this actor's arithmetic: its share of what this process may use."""
    if config.in_process:
        return choose_threads(config.cpus, 0.0)
    import ray

    node_cpus = 0.0
    if ray.is_initialized():
        own = ray.get_runtime_context().get_node_id()
        node_cpus = next((node["Resources"].get("CPU", 0.0) for node in ray.nodes() if node["NodeID"] == own), 0.0)
    return choose_threads(config.cpus, node_cpus)
