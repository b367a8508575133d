"""The Ray side of the dispatcher: starts and ends actors, gives them attempts, and reports their replies to it."""

import re
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal

import ray
from ray.actor import ActorHandle

from actors.actions import AssignAttempt, KillActor, StartActor, StopActor
from actors.actor_config import EngineFactory, make_actor_config
from actors.cluster import Cluster
from actors.dispatcher import Dispatcher
from actors.fault_limits import FaultLimits, make_fault_limits
from actors.generator import Generator, load_engine
from actors.messages import (
    DeathCause,
    EngineFailed,
    GenerationResult,
    Heartbeat,
    LoadedActor,
    Progress,
    ShardAttempt,
    ShardReport,
    Stopped,
)
from actors.progress_counter import ProgressCounter
from musicgen.errors import MusicGenError, StoreError, UserError
from musicgen.job import Job
from musicgen.plan import Plan
from musicgen.storage import Store

_POLL_INTERVAL_S = 0.25
_COMMIT_WAIT_S = 1.5  # for commits that are being written when the run is stopped


@dataclass(frozen=True, slots=True)
class _PendingCall:
    method: Literal["load_model", "make_shard", "heartbeat"]
    actor: int
    attempt: ShardAttempt | None = None  # of make_shard


class Pool:
    """Makes a plan's pending shards on the actors of a cluster."""

    def __init__(
        self,
        job: Job,
        plan: Plan,
        store: Store,
        cluster: Cluster,
        make_engine: EngineFactory = load_engine,
        limits: FaultLimits | None = None,
    ):
        self.stop = threading.Event()  # set it from any thread, and `run` ends within seconds
        self._store = store
        self._job = job
        self._plan = plan
        self._cluster = cluster
        self._config = make_actor_config(job, plan, cluster)
        self._make_engine = make_engine
        self._limits = limits or make_fault_limits(job.cluster)
        self._dispatcher = self._make_dispatcher(())
        self._counter = ProgressCounter()
        self._started_at: float | None = None
        self._actors: dict[int, ActorHandle] = {}
        self._calls: dict[ray.ObjectRef, _PendingCall] = {}
        self._heartbeat_due: dict[int, float] = {}
        self._loaded_actors: list[LoadedActor] = []

    def run(self, shards: Sequence[int], rows: int, on_progress: Callable[[Progress], None]) -> GenerationResult:
        """Make `shards`, which have `rows` rows, and call `on_progress` several times a second.

        Raises `ActorsFailed` if the run cannot go on, `Stopped` if `stop` was set, and the `UserError` of a first actor
        if no actor could work. In each case the actors have ended.
        """
        self._started_at = time.monotonic()
        self._counter = ProgressCounter(rows, len(shards))
        self._dispatcher = self._make_dispatcher(shards)
        self._store.write(self._config.driver_token, b"the driver was here")
        try:
            while not self._dispatcher.finished:
                if self.stop.is_set():
                    raise Stopped("stopped")
                self._carry_out_actions()
                self._collect_replies()
                on_progress(self._current_progress())
        except BaseException:
            self._await_commits()
            raise
        finally:
            for actor in list(self._actors):
                with suppress(Exception):
                    self._end_actor(actor)
            with suppress(StoreError, OSError):
                self._store.delete(self._config.driver_token)
        return self.result()

    def result(self) -> GenerationResult:
        """Return what has been made so far; also after a `run` that raised, and before any."""
        return GenerationResult(
            progress=self._current_progress(),
            given_up=dict(self._dispatcher.given_up),
            loaded_actors=tuple(self._loaded_actors),
            seconds=0.0 if self._started_at is None else time.monotonic() - self._started_at,
            peak_rss_mb=self._counter.peak_rss_mb,
            cluster=self._cluster.description,
        )

    def _make_dispatcher(self, shards: Sequence[int]) -> Dispatcher:
        settings = self._job.cluster
        return Dispatcher(shards, self._plan.shard_rows, self._limits, settings.min_actors, settings.max_actors)

    # ------------------------------------------------------------ calls to actors

    def _carry_out_actions(self) -> None:
        now = time.monotonic()
        for action in self._dispatcher.decide(now):
            match action:
                case StartActor(actor):
                    self._start_actor(actor)
                case AssignAttempt(actor, attempt):
                    reply = self._actors[actor].make_shard.remote(attempt)
                    self._calls[reply] = _PendingCall("make_shard", actor, attempt)
                case KillActor(actor) | StopActor(actor):
                    self._end_actor(actor)
        for actor, due in self._heartbeat_due.items():
            if now >= due:
                self._calls[self._actors[actor].heartbeat.remote()] = _PendingCall("heartbeat", actor)
                self._heartbeat_due[actor] = float("inf")

    def _start_actor(self, actor: int) -> None:
        actor_class = ray.remote(
            num_cpus=self._cluster.cpus_per_actor,
            num_gpus=self._cluster.gpus_per_actor,
            max_restarts=0,  # the dispatcher replaces actors, because it knows what they held
            max_task_retries=0,
            concurrency_groups={"generation": self._limits.attempts_per_actor + 1, "heartbeat": 1},
            scheduling_strategy="SPREAD",
        )(Generator)
        self._actors[actor] = actor_class.remote(self._config, self._make_engine)
        self._calls[self._actors[actor].load_model.remote()] = _PendingCall("load_model", actor)

    def _end_actor(self, actor: int) -> None:
        handle = self._actors.pop(actor, None)
        if handle is not None:
            ray.kill(handle)
        self._counter.forget_actor(actor)
        self._heartbeat_due.pop(actor, None)
        self._calls = {reply: call for reply, call in self._calls.items() if call.actor != actor}

    def _await_commits(self) -> None:
        """Wait a moment for commits that are being written. A shard that is not committed is made by the next run."""
        replies = [reply for reply, call in self._calls.items() if call.method == "make_shard"]
        with suppress(BaseException):
            ray.wait(replies, num_returns=len(replies), timeout=_COMMIT_WAIT_S) if replies else None

    # ------------------------------------------------------------ replies of actors

    def _collect_replies(self) -> None:
        if not self._calls:
            time.sleep(_POLL_INTERVAL_S)
            return
        replies = list(self._calls)
        ray.wait(replies, num_returns=1, timeout=_POLL_INTERVAL_S)
        ready, _ = ray.wait(replies, num_returns=len(replies), timeout=0)
        for reply in ready:
            call = self._calls.pop(reply, None)
            if call is not None:  # None: its actor was ended because of an earlier reply
                self._handle_reply(call, reply)

    def _handle_reply(self, call: _PendingCall, reply: ray.ObjectRef) -> None:
        now = time.monotonic()
        try:
            value = ray.get(reply)
        except ray.exceptions.RayTaskError as error:
            self._handle_error(call, error.cause if isinstance(error.cause, Exception) else error, now)
        except ray.exceptions.RayError as error:
            cause: DeathCause = "preempted" if getattr(error, "preempted", False) else "crash"
            self._lose_actor(call.actor, cause, _describe_death(error), now)
        else:
            self._handle_value(call, value, now)

    def _handle_value(self, call: _PendingCall, value: object, now: float) -> None:
        match value:
            case LoadedActor():
                self._loaded_actors.append(value)
                self._counter.on_ready(now)
                self._heartbeat_due[call.actor] = now
                self._dispatcher.on_ready(call.actor, now)
            case ShardReport() if self._dispatcher.on_finished(call.actor, value.attempt, now):
                self._counter.on_committed(call.actor, value)
            case Heartbeat():
                self._counter.on_heartbeat(call.actor, value)
                interval_s = min(self._job.cluster.heartbeat_s, self._limits.heartbeat_timeout_s / 4)
                self._heartbeat_due[call.actor] = now + interval_s
                self._dispatcher.on_heartbeat(call.actor, now, value.stalled_s)

    def _handle_error(self, call: _PendingCall, error: Exception, now: float) -> None:
        reason = str(error) if isinstance(error, MusicGenError) else f"{type(error).__name__}: {error}"
        if call.method == "load_model":
            if isinstance(error, UserError) and not self._loaded_actors:
                raise error  # any other actor would fail in the same way
            self._lose_actor(call.actor, "crash", reason, now)
        elif isinstance(error, EngineFailed):
            self._lose_actor(call.actor, "engine", str(error), now)
        elif call.attempt is not None:
            self._dispatcher.on_failed(call.actor, call.attempt, reason, now)

    def _lose_actor(self, actor: int, cause: DeathCause, reason: str, now: float) -> None:
        self._end_actor(actor)
        self._dispatcher.on_died(actor, cause, reason, now)

    def _current_progress(self) -> Progress:
        dispatcher = self._dispatcher
        return self._counter.current(
            dispatcher.shards_done, dispatcher.ready_actors, dispatcher.crashes, dispatcher.preemptions
        )


def _describe_death(error: Exception) -> str:
    """Return why an actor's process ended: the useful part of Ray's long message."""
    text = " ".join(str(error).split())
    exit_reason = re.search(r"Worker exit type: (\w+) Worker exit detail: (.+?)(?:\. |$)", text)
    if exit_reason:
        return f"its process ended ({exit_reason[1]}: {exit_reason[2][:200]})"
    return f"its process ended ({(text or type(error).__name__)[:200]})"
