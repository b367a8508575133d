"""The actor that holds a model: it is given attempts at shards, and commits shards.

`load_model` comes first; `make_shard` is called for several shards at a time, so that the rows of the next ones wait in
the generation loop while one ends; `heartbeat` is answered at any time. It is a plain class, which Ray's actors
(`ray_generator.py`) and the one of a single process (`in_process_actors.py`) share.
"""

import os
import platform
import resource
import time
from dataclasses import replace

from actors.actor_config import ActorConfig, EngineFactory
from actors.actor_device import count_threads, name_device, prepare_device
from actors.actor_measures import ActorMeasures, measure_gpu_memory, measure_store
from actors.agreed_engine import AgreedSlots, make_agreed_engine
from actors.environment import check_versions
from actors.feeding import count_writers
from actors.generation_loop import GenerationLoop
from actors.messages import Heartbeat, LoadedActor, ShardAttempt, ShardReport
from actors.running_attempt import RunningAttempt
from musicgen.dataset import paths
from musicgen.dataset.index_part import read_footer
from musicgen.errors import JobError, ModelError, StoreDenied, StoreUnavailable
from musicgen.families.family import EngineSettings, GenerationEngine
from musicgen.families.registry import resolve_checkpoint
from musicgen.model.decoder.build import measure_compile_s
from musicgen.storage import Store, open_store
from musicgen.storage.patience import wait_for_store
from musicgen.store_waits import find_longest_wait
from musicgen.temporary_folder import remove_abandoned_folders
from musicgen.unfinished_clips import UnfinishedClips

_SLOW_STORE_S = 5.0  # a call that takes longer is said to wait for the store


def load_engine(config: ActorConfig) -> GenerationEngine:
    """Load the planned checkpoint into an engine.

    Raises `ModelError` if the job's model is another one on this machine or its GPU cannot be used, `StoreError` if its
    store cannot be used.
    """
    prepare_device(config)
    planned, model_settings = config.plan.model, config.model
    try:
        checkpoint = resolve_checkpoint(model_settings.name, model_settings.revision, model_settings.allow_pr)
    except ModelError as error:
        if isinstance(error.__cause__, StoreUnavailable | StoreDenied):  # it may pass, and the model is not at fault
            raise error.__cause__ from None
        raise
    if checkpoint.identity != planned.identity:
        raise ModelError(
            f"{model_settings.name} on {platform.node()} is another checkpoint ({checkpoint.identity[:12]}) than "
            f"{planned.name}, which the run was planned with ({planned.identity[:12]}); give all workers the same "
            "files, or name a hub revision or s3:// folder"
        )
    settings = EngineSettings(
        device=config.device,
        dtype=config.dtype,
        slots=config.slots,
        threads=count_threads(config),
        longest_s=config.plan.longest_s,
        store_patience_s=config.store_patience_s,
    )
    return checkpoint.family.load_engine(checkpoint, settings)


class Generator:
    """One model in one process. Threads: generation, writers, and one for each shard that is being made."""

    def __init__(self, config: ActorConfig, make_engine: EngineFactory = load_engine):
        self._config = config
        self._make_engine = make_engine
        self._store: Store | None = None
        self._engine: GenerationEngine | None = None
        self._loop: GenerationLoop | None = None
        self._running: dict[ShardAttempt, RunningAttempt] = {}
        self._waited_at = time.monotonic()  # when a heartbeat last found something waiting for a store
        self._clips = 0  # made in attempts that have ended

    def load_model(self) -> LoadedActor:
        """Check versions and store, load the model, and start the generation loop.

        Waits for a store that cannot be used. Raises a `UserError` if no actor could work like this, `NodeFault` if
        this machine has too little memory, and `StoreError`.
        """
        started_at = time.monotonic()
        config = self._config
        remove_abandoned_folders()
        check_versions(config.versions, platform.node())
        self._store = store = open_store(config.output, config.single_writer)
        wait_for_store(lambda: self._check_driver_token(store), config.store_patience_s)
        agreed = AgreedSlots(store, config, name_device(config))
        self._engine = make_agreed_engine(config, self._make_engine, agreed)
        self._loop = GenerationLoop(
            self._engine,
            writers=count_writers(self._engine.slots),
            lower_slots=agreed.lower if config.slots == "auto" else None,
        )
        return LoadedActor(
            host=platform.node(),
            pid=os.getpid(),
            engine=self._engine.fingerprint,
            slots=self._engine.slots,
            load_s=time.monotonic() - started_at,
            compile_s=measure_compile_s(),
        )

    def make_shard(self, attempt: ShardAttempt) -> ShardReport:
        """Make a shard's rows and commit them; a trial makes its rows and commits nothing.

        Waits for a store that cannot be used, and keeps what it has made. Raises `StoreError` if that takes longer than
        `cluster.store_patience_s`, and at faults of the store that time does not cure; `NodeFault` if this machine's
        disk is full; `EngineFailed` if the generation thread has ended, `SlotsLowered` if it ended for lack of memory.
        """
        assert self._store is not None, "load_model comes first"
        assert self._engine is not None
        assert self._loop is not None
        if (report := self._find_commit(self._store, attempt)) is not None:
            return report
        loop = self._loop
        running = RunningAttempt(self._store, self._config, attempt, self._engine.fingerprint)
        self._running[attempt] = running
        try:
            running.submit_rows(loop)
            running.wait(loop)
            return replace(running.commit(), measures=self._measure(self._engine, loop))
        finally:
            del self._running[attempt]
            self._clips += running.clips
            running.close()

    def heartbeat(self) -> Heartbeat:
        """Return a sign of life, whatever the other threads do.

        Time that something waits for a store does not count as a stall: such calls have deadlines of their own.
        """
        now = time.monotonic()
        wait = find_longest_wait(_SLOW_STORE_S)
        if wait is not None:
            self._waited_at = now
        attempts = list(self._running.values())
        loop, engine = self._loop, self._engine
        stalls = [loop.stalled_s()] if loop is not None else []
        stalled_s = max([*stalls, *(attempt.stalled_s() for attempt in attempts)], default=0.0)
        to_commit = [attempt for attempt in attempts if not attempt.attempt.is_trial]
        return Heartbeat(
            uncommitted_rows=sum(attempt.settled_rows for attempt in to_commit),
            uncommitted_audio_s=sum(attempt.audio_s for attempt in to_commit),
            stalled_s=min(stalled_s, now - self._waited_at),
            peak_rss_mb=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
            waiting_for="" if wait is None else str(wait),
            waiting_s=0.0 if wait is None else wait.seconds,
            clips=self._clips + sum(attempt.clips for attempt in attempts),
            unfinished=engine.measure_unfinished() if engine is not None else UnfinishedClips(),
            measures=self._measure(engine, loop) if engine is not None and loop is not None else ActorMeasures(),
        )

    def _measure(self, engine: GenerationEngine, loop: GenerationLoop) -> ActorMeasures:
        measures = ActorMeasures(
            slots=engine.slots,
            slots_used=min(engine.slots, loop.rows_in_engine),
            rows_queued=loop.queued_rows,
            gpu_memory_bytes=measure_gpu_memory(),
            steps=engine.steps,
            step_s=loop.step_s,
        )
        return measures if self._config.in_process else measures + measure_store()

    def close(self, wait_s: float) -> bool:
        """Stop generating; returns whether the generation thread has ended within `wait_s`. Ray's actors need it not.

        Attempts that wait for rows end by `EngineFailed`.
        """
        ended = self._loop is None or self._loop.close(wait_s)
        if ended and self._engine is not None:
            self._engine.close()
        self._loop = self._engine = None
        return ended

    def _find_commit(self, store: Store, attempt: ShardAttempt) -> ShardReport | None:
        """Return a report of the shard's commit by another driver, or by an attempt that was given up but ran on."""
        if attempt.is_trial:
            return None
        path = paths.index_part(self._config.plan.run, attempt.shard)
        try:
            footer = wait_for_store(lambda: read_footer(store, path), self._config.store_patience_s)
        except FileNotFoundError:
            return None
        return ShardReport(attempt, False, footer.made, footer.failed, footer.audio_s, footer.closed, footer.attempt)

    def _check_driver_token(self, store: Store) -> None:
        config = self._config
        try:
            store.read(config.driver_token)
        except FileNotFoundError:
            raise JobError(
                f"the worker on {platform.node()} does not see what the driver wrote to {config.output}: "
                "the path is not shared between the machines; use s3:// or a shared file system"
            ) from None
