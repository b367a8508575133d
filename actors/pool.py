"""Makes a plan's pending shards on the actors of a cluster."""

import threading
import time
from collections.abc import Callable, Sequence

from actors.actor_config import EngineFactory, make_actor_config
from actors.cluster import Cluster
from actors.fault_limits import FaultLimits, make_fault_limits
from actors.generator import load_engine
from actors.messages import GenerationResult, LoadedActor, Progress, RunEvent, Stopped
from actors.pool_loop import PoolLoop
from actors.progress_thread import ProgressThread
from actors.timeline import Timeline
from musicgen.job import Job
from musicgen.plan import Plan
from musicgen.storage import Store


class Pool:
    """The actors of one run of a job, and what they have made."""

    def __init__(
        self,
        job: Job,
        plan: Plan,
        store: Store,
        cluster: Cluster,
        make_engine: EngineFactory = load_engine,
        limits: FaultLimits | None = None,
        spent: float = 0.0,  # what earlier drivers of the run have cost
        on_event: Callable[[RunEvent], None] | None = None,
    ):
        self.stop = threading.Event()  # set it from any thread, and `run` ends within seconds
        self._job = job
        self._plan = plan
        self._store = store
        self._cluster = cluster
        self._config = make_actor_config(job, plan, cluster)
        self._make_engine = make_engine
        self._limits = limits or make_fault_limits(job.cluster)
        self._spent, self._on_event = spent, on_event
        self._timeline = Timeline()
        self._loop: PoolLoop | None = None
        self._started_at: float | None = None

    def run(self, shards: Sequence[int], rows: int, on_progress: Callable[[Progress], None]) -> GenerationResult:
        """Make `shards`, which have `rows` rows.

        `on_progress` is called several times a second in a thread of its own, with the latest progress. Raises
        `ActorsFailed` if the run cannot go on, `RunClosed` if another run has closed it, `Stopped` if `stop` was set,
        `LimitReached` if the job's limits or a pause stop it,
        and the `UserError` of actors if none could work. In each case the actors have ended.
        """
        self._started_at = time.monotonic()
        self._loop = loop = PoolLoop(
            self._job,
            self._plan,
            self._store,
            self._cluster,
            self._config,
            self._make_engine,
            self._limits,
            self._spent,
            self._on_event,
        )
        loop.start(shards, rows)
        interrupted = True
        try:
            with ProgressThread(on_progress) as progress_thread:
                while not loop.finished:
                    if self.stop.is_set():
                        raise Stopped("stopped")
                    progress = loop.turn()
                    progress_thread.put(progress)
                    self._timeline.add(time.monotonic() - self._started_at, progress.done_audio_s)
            interrupted = False
        finally:
            loop.close(interrupted)
        return self.result()

    def result(self) -> GenerationResult:
        """Return what has been made so far; also after a `run` that raised, and before any."""
        loop = self._loop
        return GenerationResult(
            progress=loop.progress if loop else Progress(0, 0),
            given_up=loop.given_up if loop else {},
            loaded_actors=tuple(self._loaded_actors),
            seconds=0.0 if self._started_at is None else time.monotonic() - self._started_at,
            peak_rss_mb=loop.peak_rss_mb if loop else 0.0,
            cluster=self._cluster.description,
            cluster_start_s=self._cluster.start_s,
            set_aside=loop.set_aside if loop else {},
            actor_s=loop.run_limits.actor_s if loop else 0.0,
            gpus_per_actor=self._config.gpus,
            timeline=self._timeline.points,
        )

    @property
    def _loaded_actors(self) -> list[LoadedActor]:
        return self._loop.loaded_actors if self._loop else []
