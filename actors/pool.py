"""The Ray side of the dispatcher: starts and ends actors, carries works to them and news back."""

import re
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Literal
from uuid import uuid4

import ray

from actors.cluster import Cluster
from actors.dispatcher import Assign, Dispatcher, Kill, Limits, Start, Stop
from actors.environment import versions
from actors.generator import EngineFactory, Generator, Settings, load_engine
from actors.messages import Death, EngineFailed, Loaded, Progress, Pulse, Result, ShardReport, Stopped, Work
from musicgen.dataset import paths
from musicgen.errors import MusicGenError, StoreError, UserError
from musicgen.job import Job
from musicgen.plan import Plan
from musicgen.storage import Store

_TICK_S = 0.25
_FAREWELL_S = 1.5  # for commits in flight when the run is stopped


@dataclass(frozen=True, slots=True)
class _Call:
    kind: Literal["load", "make", "pulse"]
    actor: int
    work: Work | None = None


class Pool:
    """Makes a plan's pending shards on the actors of a cluster."""

    def __init__(
        self,
        job: Job,
        plan: Plan,
        store: Store,
        cluster: Cluster,
        make_engine: EngineFactory = load_engine,
        limits: Limits | None = None,
    ):
        self.stop = threading.Event()  # set it from any thread, and `run` ends within seconds
        self._store = store
        self._job = job
        self._plan = plan
        self._cluster = cluster
        driver = uuid4().hex[:8]
        self._settings = Settings(
            plan=plan,
            output=job.output.uri,
            single_writer=job.output.single_writer,
            audio=job.audio,
            device=job.model.device if cluster.gpus_per_actor or job.model.device != "auto" else "cpu",
            dtype=job.model.dtype,
            slots=plan.slots,
            threads=cluster.threads,
            driver=driver,
            token=paths.driver_token(plan.run, driver),
            # On a local cluster actors import the driver's own files; whoever edits these meanwhile knows what they do.
            versions={name: value for name, value in versions().items() if name != "code" or not cluster.ours},
        )
        self._make_engine = make_engine
        self._limits = limits or Limits(
            errors=job.cluster.attempts, silence_s=job.cluster.silent_after_s, init_s=job.cluster.start_timeout_s
        )
        self._actors: dict[int, Any] = {}
        self._calls: dict[Any, _Call] = {}
        self._pulses: dict[int, Pulse] = {}
        self._pulse_due: dict[int, float] = {}
        self._loaded: list[Loaded] = []
        self._peak_rss_mb = 0.0

    def run(self, shards: Sequence[int], rows: int, on_progress: Callable[[Progress], None]) -> Result:
        """Make `shards` (with `rows` rows) and tell `on_progress` several times a second.

        Raises `ActorsFailed` if it cannot go on, the `UserError` of a first actor that cannot work at all, and
        `Stopped` after `stop` was set; its actors have ended then.
        """
        self._started = time.monotonic()
        self._first_ready = 0.0
        self._progress = Progress(rows, len(shards))
        self._dispatcher = Dispatcher(
            shards, self._plan.shard_rows, self._job.cluster.min_actors, self._job.cluster.max_actors, self._limits
        )
        self._store.write(self._settings.token, b"the driver was here")
        try:
            while not self._dispatcher.finished:
                if self.stop.is_set():
                    raise Stopped("stopped")
                self._act()
                self._listen()
                on_progress(self._report())
        except BaseException:
            self._farewell()
            raise
        finally:
            self._end_all()
            with suppress(StoreError, OSError):
                self._store.delete(self._settings.token)
        return self.result()

    def result(self) -> Result:
        """What `run` has come to, also when it did not end well."""
        seconds = time.monotonic() - self._started
        given_up, loaded = dict(self._dispatcher.given_up), tuple(self._loaded)
        return Result(self._report(), given_up, loaded, seconds, self._peak_rss_mb, self._cluster.description)

    # Deeds

    def _act(self) -> None:
        now = time.monotonic()
        for action in self._dispatcher.decide(now):
            match action:
                case Start(actor):
                    self._start(actor, now)
                case Assign(actor, work):
                    self._calls[self._actors[actor].make.remote(work)] = _Call("make", actor, work)
                case Kill(actor) | Stop(actor):
                    self._end(actor)
        for actor, due in self._pulse_due.items():
            if now >= due:
                self._calls[self._actors[actor].pulse.remote()] = _Call("pulse", actor)
                self._pulse_due[actor] = float("inf")

    def _start(self, actor: int, now: float) -> None:
        remote = ray.remote(
            num_cpus=self._cluster.cpus_per_actor,
            num_gpus=self._cluster.gpus_per_actor,
            max_restarts=0,  # the dispatcher replaces actors: it knows what they held
            max_task_retries=0,
            concurrency_groups={"make": self._limits.in_flight + 1, "pulse": 1},
            scheduling_strategy="SPREAD",
        )(Generator)
        self._actors[actor] = remote.remote(self._settings, self._make_engine)
        self._calls[self._actors[actor].load.remote()] = _Call("load", actor)

    def _end(self, actor: int) -> None:
        handle = self._actors.pop(actor, None)
        if handle is not None:
            ray.kill(handle)
        self._pulses.pop(actor, None)
        self._pulse_due.pop(actor, None)
        self._calls = {ref: call for ref, call in self._calls.items() if call.actor != actor}

    def _farewell(self) -> None:
        """Let commits that are nearly there arrive. What does not is made again by the next run."""
        makes = [ref for ref, call in self._calls.items() if call.kind == "make"]
        with suppress(BaseException):
            ray.wait(makes, num_returns=len(makes), timeout=_FAREWELL_S) if makes else None

    def _end_all(self) -> None:
        for actor in list(self._actors):
            with suppress(Exception):
                self._end(actor)

    # News

    def _listen(self) -> None:
        if not self._calls:
            time.sleep(_TICK_S)
            return
        refs = list(self._calls)
        ray.wait(refs, num_returns=1, timeout=_TICK_S)
        ready, _ = ray.wait(refs, num_returns=len(refs), timeout=0)
        for ref in ready:
            call = self._calls.pop(ref, None)
            if call is not None:  # None: its actor went down with an earlier reply
                self._hear(call, ref)

    def _hear(self, call: _Call, ref: Any) -> None:
        now = time.monotonic()
        try:
            reply = ray.get(ref)
        except ray.exceptions.RayTaskError as error:
            self._raised(call, error.cause if isinstance(error.cause, Exception) else error, now)
        except ray.exceptions.RayError as error:
            self._lost(call.actor, "preempted" if getattr(error, "preempted", False) else "crash", _why(error), now)
        else:
            self._replied(call, reply, now)

    def _replied(self, call: _Call, reply: Any, now: float) -> None:
        match reply:
            case Loaded():
                self._loaded.append(reply)
                self._first_ready = self._first_ready or now
                self._pulse_due[call.actor] = now
                self._dispatcher.ready(call.actor, now)
            case ShardReport() if self._dispatcher.finish(call.actor, reply.work, now):
                # A shard that another driver committed counts as done, its rows as the store has them.
                self._progress = replace(
                    self._progress,
                    made=self._progress.made + reply.made,
                    failed=self._progress.failed + reply.failed,
                    audio_s=self._progress.audio_s + reply.audio_s,
                )
                pulse = self._pulses.get(call.actor, Pulse())
                self._pulses[call.actor] = replace(  # what is committed is no longer in hand
                    pulse,
                    rows_in_hand=max(0, pulse.rows_in_hand - reply.made - reply.failed),
                    audio_s_in_hand=max(0.0, pulse.audio_s_in_hand - reply.audio_s),
                )
            case Pulse():
                self._pulses[call.actor] = reply
                self._pulse_due[call.actor] = now + min(self._job.cluster.heartbeat_s, self._limits.silence_s / 4)
                self._peak_rss_mb = max(self._peak_rss_mb, reply.peak_rss_mb)
                self._dispatcher.heard(call.actor, now, reply.stalled_s)

    def _raised(self, call: _Call, error: Exception, now: float) -> None:
        reason = f"{error}" if isinstance(error, MusicGenError) else f"{type(error).__name__}: {error}"
        if call.kind == "load":
            if isinstance(error, UserError) and not self._loaded:
                raise error  # no other actor will fare better
            self._lost(call.actor, "crash", reason, now)
        elif isinstance(error, EngineFailed):
            self._lost(call.actor, "engine", str(error), now)
        elif call.work is not None:
            self._dispatcher.failed(call.actor, call.work, reason, now)

    def _lost(self, actor: int, death: Death, reason: str, now: float) -> None:
        self._end(actor)
        self._dispatcher.died(actor, death, reason, now)

    def _report(self) -> Progress:
        return replace(
            self._progress,
            shards_done=self._dispatcher.done,
            rows_in_hand=sum(pulse.rows_in_hand for pulse in self._pulses.values()),
            audio_s_in_hand=sum(pulse.audio_s_in_hand for pulse in self._pulses.values()),
            actors=self._dispatcher.actors,
            crashes=self._dispatcher.crashes,
            preemptions=self._dispatcher.preemptions,
            generating_s=time.monotonic() - self._first_ready if self._first_ready else 0.0,
        )


def _why(error: Exception) -> str:
    """The telling part of Ray's long message about a death."""
    text = " ".join(str(error).split())
    told = re.search(r"Worker exit type: (\w+) Worker exit detail: (.+?)(?:\. |$)", text)
    if told:
        return f"its process ended ({told[1]}: {told[2][:200]})"
    return f"its process ended ({(text or type(error).__name__)[:200]})"
