"""An actor in the test's own process, without Ray or a model, on a real plan and a real store."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

import musicgen.dataset
from actors.actor_config import make_actor_config
from actors.cluster import Cluster
from actors.generator import Generator
from actors.messages import ShardAttempt, ShardReport
from musicgen.clip import Clip
from musicgen.dataset.driver_token import DriverToken
from musicgen.job import Job
from musicgen.plan import make_plan
from musicgen.request import Request
from musicgen.storage import open_store
from tests.actors.engines import ScriptedEngine
from tests.fixtures.planning import PlannedCheckpoint

CLUSTER = Cluster("local", started_here=True, nodes=1, cpus=1, gpus=0, cpus_per_actor=1, gpus_per_actor=0)


def make_noise(request: Request) -> Clip:
    """A clip of noise, of a second, that depends on the request's seed."""
    noise = np.random.default_rng(request.seed).uniform(-0.5, 0.5, (1, 32000)).astype(np.float32)
    return Clip(request, np.zeros((4, 50), np.int16), noise, 32000)


class ActorInProcess:
    """A planned run of one-second rows, and a `Generator` for it that has loaded its engine."""

    def __init__(self, folder: Path, rows: int, output: str, make: Callable[[Request], Any] = make_noise, **sections):
        manifest = folder / "rows.csv"
        manifest.write_text("prompt\n" + "".join(f"tune {row}\n" for row in range(rows)))
        cluster = {"shard_rows": rows, "slots": 4, **sections.pop("cluster", {})}
        self.job = Job.model_validate(
            {
                "manifest": {"uri": str(manifest)},
                "generation": {"duration_s": 1},
                "cluster": cluster,
                "output": {"uri": output},
                **sections,
            }
        )
        self.store = open_store(output)
        plan = make_plan(self.job, PlannedCheckpoint(), self.store).plan
        assert plan is not None
        self.plan = plan
        self.config = make_actor_config(self.job, plan, CLUSTER)
        self.engine = ScriptedEngine(slots=4, make=make)
        self.store.write(self.config.driver_token, DriverToken().to_json())
        self.generator = Generator(self.config, lambda config: self.engine)
        self.generator.load_model()

    @contextmanager
    def making(self, shard: int = 0) -> Iterator[Future[ShardReport]]:
        """Make the shard in another thread meanwhile."""
        with ThreadPoolExecutor(1) as pool:
            yield pool.submit(self.generator.make_shard, ShardAttempt(shard))

    def dataset(self) -> Any:
        """What readers see."""
        return musicgen.dataset.open_dataset(self.store.uri)


def make_noise_after(count: int, reached: threading.Event, go_on: threading.Event) -> Callable[[Request], Clip]:
    """`make_noise` that sets `reached` after `count` clips, and waits for `go_on` before the next."""
    made = iter(range(1, 1 << 30))

    def make(request: Request) -> Clip:
        clip = make_noise(request)
        if next(made) > count:
            reached.set()
            go_on.wait(60)
        return clip

    return make
