"""A local Ray for these tests, and planned runs on a small checkpoint."""

import csv
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from actors.cluster import Cluster, join_cluster
from actors.fault_limits import FaultLimits, make_fault_limits
from actors.messages import GenerationResult, Progress
from musicgen.cluster_settings import ClusterSettings
from musicgen.job import Job
from musicgen.plan import Plan, make_plan, pending_shards
from musicgen.storage import Store, open_store
from tests.fixtures.checkpoints import *  # noqa: F403

QUICK = replace(make_fault_limits(ClusterSettings()), heartbeat_timeout_s=5.0, backoff_s=0.1, failed_starts=2)


@pytest.fixture(scope="module")  # other test files start their own Ray in the same process
def cluster() -> Iterator[Cluster]:
    """A local Ray with three CPUs, whatever the machine has."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("RAY_ADDRESS", raising=False)
        patch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))  # workers import the engines of these tests
        with join_cluster(ClusterSettings(actors=3, cpus_per_actor=1)) as cluster:
            yield replace(cluster, cpus_per_actor=1.0)


@dataclass(frozen=True)
class Planned:
    """A planned run, ready for a pool."""

    job: Job
    plan: Plan
    store: Store
    cluster: Cluster

    def pool(self, make_engine: Any = None, limits: FaultLimits = QUICK) -> Any:
        """A pool for it."""
        from actors.generator import load_engine
        from actors.pool import Pool

        return Pool(self.job, self.plan, self.store, self.cluster, make_engine or load_engine, limits)

    def run(
        self, make_engine: Any = None, limits: FaultLimits = QUICK, watch: Callable[[Any, Progress], None] | None = None
    ) -> GenerationResult:
        """Make what is pending; `watch(pool, progress)` may interfere."""
        pool = self.pool(make_engine, limits)
        return pool.run(
            pending_shards(self.store, self.plan),
            self.plan.rows,
            lambda progress: watch(pool, progress) if watch else None,
        )

    def sounds(self) -> dict[str, str]:
        """Key -> sha256 of the audio; every key once."""
        import musicgen.dataset

        table = musicgen.dataset.open_dataset(self.store.uri).to_arrow(["key", "audio_sha256"]).to_pydict()
        assert len(set(table["key"])) == len(table["key"])
        return dict(zip(table["key"], table["audio_sha256"], strict=True))

    def engines(self) -> set[str]:
        """The fingerprints of the engines that made the clips."""
        import musicgen.dataset

        return set(musicgen.dataset.open_dataset(self.store.uri).to_arrow(["engine"])["engine"].to_pylist())

    def failures(self) -> list[dict[str, Any]]:
        """The rows of failures/."""
        import musicgen.dataset

        return musicgen.dataset.open_dataset(self.store.uri).failures().to_pylist()


@pytest.fixture
def planned(cluster: Cluster, text_checkpoint: Path, tmp_path: Path) -> Callable[..., Planned]:
    """Plans prompts: `planned(prompts, actors=2, shard_rows=6)`."""
    from musicgen.model import resolve_checkpoint

    def plan(prompts: list[str], name: str = "set", output: str | None = None, **cluster_settings: Any) -> Planned:
        manifest = tmp_path / f"{name}.csv"
        with manifest.open("w", newline="") as file:
            csv.writer(file).writerows([["prompt"], *([prompt] for prompt in prompts)])
        settings = {"slots": 4, "shard_rows": 6, "heartbeat_s": 0.5, **cluster_settings}
        job = Job.model_validate(
            {
                "manifest": {"uri": str(manifest)},
                "model": {"name": str(text_checkpoint)},
                "generation": {"duration_s": 0.5},
                "cluster": settings,
                "output": {"uri": output or str(tmp_path / name)},
            }
        )
        store = open_store(job.output.uri)
        outcome = make_plan(job, resolve_checkpoint(job.model.name), store)
        assert outcome.plan is not None
        return Planned(job, outcome.plan, store, cluster)

    return plan
