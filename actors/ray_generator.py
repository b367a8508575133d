"""The generator as a Ray actor: which of its methods run beside each other."""

import os
import platform

import ray

from actors.generator import Generator
from actors.messages import Heartbeat, LoadedActor, ShardAttempt, ShardReport, StartedActor
from actors.parent_watch import end_with_parent


class RayGenerator(Generator):
    """See `Generator`. A heartbeat is answered whatever the other calls do."""

    @ray.method(concurrency_group="heartbeat")
    def report_start(self) -> StartedActor:
        """Return where the process runs. It comes first, and says that Ray has found room for the actor."""
        end_with_parent()
        return StartedActor(ray.get_runtime_context().get_node_id(), platform.node(), os.getpid())

    @ray.method(concurrency_group="generation")
    def load_model(self) -> LoadedActor:
        """See `Generator`."""
        return super().load_model()

    @ray.method(concurrency_group="generation")
    def make_shard(self, attempt: ShardAttempt) -> ShardReport:
        """See `Generator`."""
        return super().make_shard(attempt)

    @ray.method(concurrency_group="heartbeat")
    def heartbeat(self) -> Heartbeat:
        """See `Generator`."""
        return super().heartbeat()
