"""Says why an actor is gone, from the error that Ray raises for its calls."""

import re

import ray

from actors.messages import DeathCause

_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
_UNREACHABLE = (
    ray.exceptions.ActorUnavailableError,
    ray.exceptions.NodeDiedError,
    ray.exceptions.LocalRayletDiedError,
)


def classify_death(error: Exception) -> DeathCause:
    """Return what the loss of an actor is to be charged to, as far as Ray's error tells."""
    if getattr(error, "preempted", False):
        return "preempted"
    if isinstance(error, ray.exceptions.OutOfMemoryError):
        return "memory"
    if isinstance(error, _UNREACHABLE) or "node has died" in str(error):
        return "node"
    return "crash"


def describe_death(error: Exception) -> str:
    """Return why an actor's process ended: the useful part of Ray's long message."""
    lines = [" ".join(line.split()) for line in _COLOURS.sub("", str(error)).splitlines() if line.strip()]
    text = " ".join(lines)
    if isinstance(error, ray.exceptions.OutOfMemoryError):
        return "Ray ended its process, because the node was running out of memory"
    if "node has died" in text:
        return "its node is gone"
    exit_reason = re.search(r"Worker exit type: (\w+) Worker exit detail: (.+?)(?:\. |$)", text)
    if exit_reason:
        return f"its process ended ({exit_reason[1]}: {exit_reason[2][:200]})"
    if "raised in its creation task" in text:
        return f"its process could not begin ({lines[-1][:400]})"  # the last line of the traceback
    return f"its process ended ({(text or type(error).__name__)[:200]})"
