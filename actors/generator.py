"""The actor that holds a model: shards in, commits out.

`load` brings the model up; `make` turns one shard into a commit while the next one's rows already wait in the feed;
`pulse` answers beside them. A plain class: the pool makes the Ray actor of it.
"""

import json
import os
import platform
import resource
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from math import ceil
from typing import Any

import ray

from actors.environment import check_versions, versions
from actors.generation_loop import Engine, Feed, Outcome, Row
from actors.messages import Condemned, EngineFailed, Loaded, Pulse, ShardReport, Work
from musicgen.clip import Clip
from musicgen.dataset import paths
from musicgen.errors import JobError, ModelError, RowError, StoreError
from musicgen.plan import Plan, read_shard
from musicgen.storage import Store, open_store

_STORAGE_TRIES = 3


@dataclass(frozen=True)
class Settings:
    """What every actor of a run is told."""

    plan: Plan
    output: str
    single_writer: bool
    audio: Any  # musicgen.job.AudioSettings
    device: str
    dtype: str
    slots: int | str
    threads: int
    driver: str  # names the attempts of one driver
    token: str  # an object in the output that the driver wrote
    versions: dict[str, str]


EngineFactory = Callable[[Settings], Engine]


def load_engine(settings: Settings) -> Engine:
    """The planned checkpoint in an engine. Raises `ModelError` if what is found here is another one."""
    import torch

    from musicgen.conditioning.conditioner import RequestConditioner
    from musicgen.engine import Engine as SlotEngine
    from musicgen.model import load_model
    from musicgen.model.checkpoint.resolve import resolve_checkpoint

    torch.set_num_threads(settings.threads)
    planned = settings.plan.model
    checkpoint = resolve_checkpoint(planned.name, planned.revision)
    if checkpoint.identity != planned.identity:
        raise ModelError(
            f"{planned.name} on {platform.node()} is another checkpoint ({checkpoint.identity[:12]}) than the one "
            "planned "
            f"({planned.identity[:12]}); give all workers the same files, or name a hub revision or s3:// folder"
        )
    longest = ceil(settings.plan.longest_s * planned.frame_rate)
    model = load_model(checkpoint, settings.device, settings.dtype)
    return SlotEngine(
        model, RequestConditioner(model), slots=settings.slots, threads=settings.threads, max_frames=longest
    )


class Generator:
    """One model in one process. Threads: generation, writers, and one per shard in hand."""

    def __init__(self, settings: Settings, make_engine: EngineFactory = load_engine):
        self._settings = settings
        self._make_engine = make_engine
        self._feed: Feed | None = None
        self._engine: Engine | None = None
        self._attempts: dict[Work, _Attempt] = {}

    @ray.method(concurrency_group="make")
    def load(self) -> Loaded:
        """Check store and versions, bring the model up. Raises a `UserError` that ends the run, if it is one."""
        started = time.monotonic()
        settings = self._settings
        check_versions(settings.versions, platform.node())
        self._store = open_store(settings.output, settings.single_writer)
        self._check_token()
        self._engine = self._with_settled_slots()
        self._feed = Feed(self._engine, writers=max(2, min(8, self._engine.slots)))
        return Loaded(
            platform.node(),
            os.getpid(),
            self._engine.fingerprint,
            self._engine.slots,
            time.monotonic() - started,
            versions(),
        )

    @ray.method(concurrency_group="make")
    def make(self, work: Work) -> ShardReport:
        """Make a shard's rows and commit them; a trial makes its rows and commits nothing.

        Raises `StoreError` if rows cannot be read or the commit cannot be written, `EngineFailed` if the generation
        thread has ended.
        """
        assert self._engine is not None, "load() comes first"
        assert self._feed is not None
        if (committed := self._committed(work)) is not None:
            return committed
        attempt = _Attempt(self._settings, self._store, work, self._engine.fingerprint)
        self._attempts[work] = attempt
        try:
            attempt.begin(self._feed)
            attempt.wait()
            return attempt.commit()
        finally:
            del self._attempts[work]
            attempt.close()

    @ray.method(concurrency_group="pulse")
    def pulse(self) -> Pulse:
        """A sign of life, answered whatever generation does."""
        peak_rss_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        if self._feed is None:
            return Pulse(peak_rss_mb=peak_rss_mb)
        attempts = [attempt for attempt in list(self._attempts.values()) if not attempt.work.trial]
        return Pulse(
            sum(attempt.settled for attempt in attempts),
            sum(attempt.audio_s for attempt in attempts),
            self._feed.clips,
            self._feed.stalled_s(),
            peak_rss_mb,
        )

    def _committed(self, work: Work) -> ShardReport | None:
        """What another driver's actor, or an attempt thought dead, has committed meanwhile."""
        from musicgen.dataset.index_part import read_footer

        path = paths.index_part(self._settings.plan.run, work.shard)
        if work.trial or not self._store.exists(path):
            return None
        footer = read_footer(self._store, path)
        return ShardReport(work, False, footer.made, footer.failed, footer.audio_s)

    def _with_settled_slots(self) -> Engine:
        """An engine with the run's number of slots. Where the plan left it to the engine, the first actor settles it:
        arithmetic depends on shapes, so all actors of a run, now and after any restart, must have the same."""
        settings = self._settings
        if settings.slots != "auto":
            return self._make_engine(settings)
        path = paths.slots_file(settings.plan.run)
        try:
            return self._make_engine(replace(settings, slots=json.loads(self._store.read(path))["slots"]))
        except FileNotFoundError:
            engine = self._make_engine(settings)
        self._store.put_if_absent(path, json.dumps({"slots": engine.slots}).encode())
        slots = json.loads(self._store.read(path))["slots"]
        if slots == engine.slots:
            return engine
        engine.close()
        return self._make_engine(replace(settings, slots=slots))

    def _check_token(self) -> None:
        settings = self._settings
        try:
            self._store.read(settings.token)
        except FileNotFoundError:
            raise JobError(
                f"the worker on {platform.node()} does not see what the driver wrote to {settings.output}: "
                "the path is not shared between the machines; use s3:// or a shared file system"
            ) from None


class _Attempt:
    """One work in hand: which rows are settled, and what became of them."""

    def __init__(self, settings: Settings, store: Store, work: Work, fingerprint: str):
        from musicgen.dataset.writer import ShardWriter

        self.work = work
        self.settled = 0
        self.audio_s = 0.0
        self._rows = read_shard(store, settings.plan, work.shard)
        self._writer = ShardWriter(
            store,
            settings.plan.run,
            work.shard,
            f"{settings.driver}-{work.attempt}",
            self._rows,
            settings.audio,
            settings.plan.model,
            fingerprint,
        )
        self._lock = threading.Lock()
        self._done = threading.Event()
        self._left = 0
        self._failure: EngineFailed | None = None

    def begin(self, feed: Feed) -> None:
        """Hand the rows to the feed."""
        condemned: dict[int, Condemned] = {row.position: row for row in self.work.condemned}
        first, end = self.work.rows or (0, len(self._rows))
        wanted = [position for position in range(first, end) if position not in condemned]
        for position, row in condemned.items():
            self._writer.fail(position, RowError(row.error_class, row.reason), row.attempts)
            self.settled += 1
        self._left = len(wanted)
        if not wanted:
            self._done.set()
        requests = self._rows.requests
        feed.submit([Row(requests[position], partial(self._settle, position), self._lose) for position in wanted])

    def wait(self) -> None:
        """Until every row is settled. Raises `EngineFailed`."""
        self._done.wait()
        if self._failure is not None:
            raise self._failure

    def commit(self) -> ShardReport:
        """Commit the shard, unless this is a trial."""
        if self.work.trial:
            return ShardReport(self.work, won=False)
        committed = self._writer.commit()
        return ShardReport(self.work, committed.won, committed.made, committed.failed, committed.audio_s)

    def close(self) -> None:
        """Free what the attempt holds on disk."""
        self._writer.close()

    def _settle(self, position: int, outcome: Outcome) -> None:
        try:
            if isinstance(outcome, Clip):
                outcome = self._write(position, outcome) or outcome
            if isinstance(outcome, RowError):
                self._writer.fail(position, outcome, self.work.attempt + 1)
        except BaseException as error:  # a shard must never wait for a row that nobody will settle
            self._lose(EngineFailed(f"row {position} could not be recorded: {type(error).__name__}: {error}"))
            raise
        with self._lock:
            self._left -= 1
            self.settled += 1
            self.audio_s += outcome.duration_s if isinstance(outcome, Clip) else 0.0
            if not self._left:
                self._done.set()

    def _write(self, position: int, clip: Clip) -> RowError | None:
        for attempt in range(1, _STORAGE_TRIES + 1):
            try:
                self._writer.add(position, clip)
                return None
            except RowError as error:
                return error
            except (StoreError, OSError) as error:
                if attempt == _STORAGE_TRIES:
                    return RowError("storage", str(error))
                time.sleep(2.0**attempt)
            except Exception as error:
                return RowError("generation", f"the clip could not be encoded: {type(error).__name__}: {error}")
        return None

    def _lose(self, failure: EngineFailed) -> None:
        self._failure = failure
        self._done.set()
