"""The Ray actor that holds a model: it is given attempts at shards, and commits shards.

`load_model` comes first; `make_shard` is called for two shards at a time, so that the rows of the next one wait in the
generation loop while one ends; `heartbeat` is answered at any time. It is a plain class here; the pool makes the Ray
actor of it.
"""

import json
import os
import platform
import resource
import time
from dataclasses import replace
from math import ceil

import ray

from actors.actor_config import ActorConfig, EngineFactory
from actors.environment import check_versions
from actors.generation_loop import GenerationEngine, GenerationLoop
from actors.messages import Heartbeat, LoadedActor, ShardAttempt, ShardReport
from actors.running_attempt import RunningAttempt
from musicgen.dataset import paths
from musicgen.dataset.index_part import read_footer
from musicgen.errors import JobError, ModelError
from musicgen.model.checkpoint.resolve import resolve_checkpoint
from musicgen.storage import Store, open_store


def load_engine(config: ActorConfig) -> GenerationEngine:
    """Load the planned checkpoint into an engine. Raises `ModelError` if this machine resolves it to another one."""
    import torch  # the driver imports this module too, and does without torch

    from musicgen.conditioning.conditioner import RequestConditioner
    from musicgen.engine import Engine
    from musicgen.model import load_model

    torch.set_num_threads(config.threads)
    planned = config.plan.model
    checkpoint = resolve_checkpoint(planned.name, planned.revision)
    if checkpoint.identity != planned.identity:
        raise ModelError(
            f"{planned.name} on {platform.node()} is another checkpoint ({checkpoint.identity[:12]}) than the one "
            f"planned ({planned.identity[:12]}); give all workers the same files, or name a hub revision or s3:// "
            "folder"
        )
    max_frames = ceil(config.plan.longest_s * planned.frame_rate)
    model = load_model(checkpoint, config.device, config.dtype)
    conditioner = RequestConditioner(model)
    return Engine(model, conditioner, slots=config.slots, threads=config.threads, max_frames=max_frames)


class Generator:
    """One model in one process. Threads: generation, writers, and one for each shard that is being made."""

    def __init__(self, config: ActorConfig, make_engine: EngineFactory = load_engine):
        self._config = config
        self._make_engine = make_engine
        self._store: Store | None = None
        self._engine: GenerationEngine | None = None
        self._loop: GenerationLoop | None = None
        self._running: dict[ShardAttempt, RunningAttempt] = {}

    @ray.method(concurrency_group="generation")
    def load_model(self) -> LoadedActor:
        """Check versions and store, load the model, and start the generation loop.

        Raises a `UserError` if no actor could work like this, and `StoreError`.
        """
        started_at = time.monotonic()
        check_versions(self._config.versions, platform.node())
        self._store = open_store(self._config.output, self._config.single_writer)
        self._check_driver_token(self._store)
        self._engine = self._make_agreed_engine(self._store)
        self._loop = GenerationLoop(self._engine, writers=max(2, min(8, self._engine.slots)))
        return LoadedActor(
            host=platform.node(),
            pid=os.getpid(),
            engine=self._engine.fingerprint,
            slots=self._engine.slots,
            load_s=time.monotonic() - started_at,
        )

    @ray.method(concurrency_group="generation")
    def make_shard(self, attempt: ShardAttempt) -> ShardReport:
        """Make a shard's rows and commit them; a trial makes its rows and commits nothing.

        Raises `StoreError` if rows cannot be read or the commit cannot be written, `EngineFailed` if the generation
        thread has ended.
        """
        assert self._store is not None, "load_model comes first"
        assert self._engine is not None
        assert self._loop is not None
        config = self._config
        if (report := self._find_commit(self._store, attempt)) is not None:
            return report
        running = RunningAttempt(
            self._store, config.plan, attempt, config.driver, config.audio, self._engine.fingerprint
        )
        self._running[attempt] = running
        try:
            running.submit_rows(self._loop)
            running.wait()
            return running.commit()
        finally:
            del self._running[attempt]
            running.close()

    @ray.method(concurrency_group="heartbeat")
    def heartbeat(self) -> Heartbeat:
        """Return a sign of life, whatever the other threads do."""
        peak_rss_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        if self._loop is None:
            return Heartbeat(peak_rss_mb=peak_rss_mb)
        running = [attempt for attempt in list(self._running.values()) if not attempt.attempt.is_trial]
        return Heartbeat(
            uncommitted_rows=sum(attempt.settled_rows for attempt in running),
            uncommitted_audio_s=sum(attempt.audio_s for attempt in running),
            stalled_s=self._loop.stalled_s(),
            peak_rss_mb=peak_rss_mb,
        )

    def _find_commit(self, store: Store, attempt: ShardAttempt) -> ShardReport | None:
        """Return a report of the shard's commit by another driver, or by an attempt that was given up but ran on."""
        path = paths.index_part(self._config.plan.run, attempt.shard)
        if attempt.is_trial or not store.exists(path):
            return None
        footer = read_footer(store, path)
        return ShardReport(attempt, False, footer.made, footer.failed, footer.audio_s)

    def _make_agreed_engine(self, store: Store) -> GenerationEngine:
        """Make an engine with the run's number of slots.

        If the job leaves the number to the engine, the run's first actor puts its choice into the store, and all others
        take it: a clip's bits depend on the shapes of the arithmetic, so all actors of a run must have the same,
        now and after any restart.
        """
        config = self._config
        if config.slots != "auto":
            return self._make_engine(config)
        path = paths.slots_file(config.plan.run)
        try:
            return self._make_engine(replace(config, slots=json.loads(store.read(path))["slots"]))
        except FileNotFoundError:
            engine = self._make_engine(config)
        store.put_if_absent(path, json.dumps({"slots": engine.slots}).encode())
        slots = json.loads(store.read(path))["slots"]
        if slots == engine.slots:
            return engine
        engine.close()
        return self._make_engine(replace(config, slots=slots))

    def _check_driver_token(self, store: Store) -> None:
        config = self._config
        try:
            store.read(config.driver_token)
        except FileNotFoundError:
            raise JobError(
                f"the worker on {platform.node()} does not see what the driver wrote to {config.output}: "
                "the path is not shared between the machines; use s3:// or a shared file system"
            ) from None
