"""The Ray actors of a pool: starts and ends them, calls them, and collects their replies."""

import time
from collections.abc import Iterator
from contextlib import suppress

import ray
from ray.actor import ActorHandle

from actors.actor_config import ActorConfig, EngineFactory
from actors.actor_replies import ActorEnded, ActorUnreachable, CallFailed, PendingCall
from actors.cluster import Cluster
from actors.deaths import classify_death, describe_death
from actors.messages import ShardAttempt
from actors.ray_generator import RayGenerator


class RayActors:
    """Actors by the dispatcher's numbers. Nothing here waits for an answer of Ray's head."""

    def __init__(self, cluster: Cluster, config: ActorConfig, make_engine: EngineFactory, attempts_per_actor: int):
        self._cluster = cluster
        self._make_engine = make_engine
        self._config = ray.put(config)  # once, because it holds the plan
        self._actor_class = ray.remote(
            num_cpus=cluster.cpus_per_actor,
            num_gpus=cluster.gpus_per_actor,
            max_restarts=0,  # the dispatcher replaces actors, because it knows what they held
            max_task_retries=0,
            concurrency_groups={"generation": attempts_per_actor + 1, "heartbeat": 1},
            scheduling_strategy="SPREAD",
        )(RayGenerator)
        self._handles: dict[int, ActorHandle] = {}
        self._calls: dict[ray.ObjectRef, PendingCall] = {}

    def start(self, actor: int, avoid: frozenset[str]) -> None:
        """Ask Ray for an actor on none of the nodes of `avoid`; it reports when its process begins, and then loads."""
        required = dict(self._cluster.node_labels)
        if avoid:
            required["ray.io/node-id"] = f"!in({','.join(sorted(avoid))})"
        selection: dict[str, object] = {"label_selector": required}
        if self._cluster.preferred_labels:
            preferred = {**self._cluster.preferred_labels, **required}
            selection = {"label_selector": preferred, "fallback_strategy": [{"label_selector": required}]}
        handle = self._actor_class.options(**selection).remote(self._config, self._make_engine)
        self._handles[actor] = handle
        self._calls[handle.report_start.remote()] = PendingCall("report_start", actor)
        self._calls[handle.load_model.remote()] = PendingCall("load_model", actor)

    def assign(self, actor: int, attempt: ShardAttempt) -> None:
        """Give the actor an attempt."""
        self._calls[self._handles[actor].make_shard.remote(attempt)] = PendingCall("make_shard", actor, attempt)

    def ask_heartbeat(self, actor: int) -> None:
        """Ask the actor for a heartbeat."""
        self._calls[self._handles[actor].heartbeat.remote()] = PendingCall("heartbeat", actor)

    def end(self, actor: int) -> None:
        """End the actor's process and forget its calls."""
        handle = self._handles.pop(actor, None)
        self._calls = {reply: call for reply, call in self._calls.items() if call.actor != actor}
        if handle is not None:
            with suppress(Exception):
                ray.kill(handle)

    def end_all(self, commit_wait_s: float) -> None:
        """End all actors, after waiting a moment for commits that are being written."""
        replies = [reply for reply, call in self._calls.items() if call.method == "make_shard"]
        with suppress(BaseException):
            ray.wait(replies, num_returns=len(replies), timeout=commit_wait_s) if replies and commit_wait_s else None
        for actor in list(self._handles):
            self.end(actor)

    def collect_replies(self, timeout_s: float) -> Iterator[tuple[PendingCall, object]]:
        """See `ActorGroup`."""
        if not self._calls:
            time.sleep(timeout_s)
            return
        replies = list(self._calls)
        ray.wait(replies, num_returns=1, timeout=timeout_s)
        ready, _ = ray.wait(replies, num_returns=len(replies), timeout=0)
        for reply in ready:
            call = self._calls.pop(reply, None)
            if call is not None:  # None: its actor was ended because of an earlier reply
                yield call, _resolve(reply)


def _resolve(reply: ray.ObjectRef) -> object:
    """Return what a call returned, or what became of it."""
    try:
        return ray.get(reply)
    except ray.exceptions.RayTaskError as error:
        return CallFailed(error.cause if isinstance(error.cause, Exception) else error)
    except ray.exceptions.ActorUnavailableError:
        return ActorUnreachable()
    except ray.exceptions.RayError as error:
        return ActorEnded(classify_death(error), describe_death(error))
