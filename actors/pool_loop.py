"""One turn after the other of a pool: hears its actors, and carries out what the dispatcher decides."""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from actors.actions import AssignAttempt, KillActor, StartActor, StopActor
from actors.actor_backends import make_actors
from actors.actor_config import ActorConfig, EngineFactory
from actors.actor_replies import ActorEnded, ActorUnreachable, CallFailed, PendingCall
from actors.cluster import Cluster
from actors.dispatcher import Dispatcher
from actors.driver_watch import DriverWatch
from actors.fault_limits import FaultLimits
from actors.feeding import count_attempts
from actors.heartbeats import HeartbeatSchedule
from actors.messages import (
    ActorsFailed,
    DeathCause,
    EngineFailed,
    Heartbeat,
    LoadedActor,
    NodeFault,
    Progress,
    RunClosed,
    RunEvent,
    ShardReport,
    SlotsLowered,
    StartedActor,
)
from actors.progress_counter import ProgressCounter
from actors.run_clock import RunClock
from actors.run_limits import RunLimits
from actors.waits import describe_waits
from musicgen.errors import MusicGenError, StoreDenied, StoreFull, StoreUnavailable, UserError
from musicgen.job import Job
from musicgen.plan import Plan
from musicgen.storage import Store

_POLL_INTERVAL_S = 0.25
_PAUSE_PER_ACTOR_S = 0.0005  # a turn costs time for each actor, so with more of them there are fewer
_COMMIT_WAIT_S = 1.5  # for commits that are being written when the run is stopped


class PoolLoop:
    """The state of a pool while it runs. Call `start`, `turn` until `finished`, and in any case `close`."""

    def __init__(
        self,
        job: Job,
        plan: Plan,
        store: Store,
        cluster: Cluster,
        config: ActorConfig,
        make_engine: EngineFactory,
        limits: FaultLimits,
        spent: float = 0.0,
        on_event: Callable[[RunEvent], None] | None = None,
    ):
        self.loaded_actors: list[LoadedActor] = []
        self._plan = plan
        self._fewest_actors, self._most_actors = job.cluster.resolve_actors(cluster.auto_actors)
        most_attempts = min(limits.attempts_per_actor, count_attempts(plan, config.slots, config.gpus > 0))
        self._limits = replace(limits, attempts_per_actor=most_attempts)
        self._config = config
        self._clock = RunClock()
        self._driver_watch = DriverWatch(store, plan.run, config.driver)
        self._dispatcher = self._make_dispatcher(())
        self._counter = ProgressCounter(on_event=on_event)
        self._actors, self._cluster_watch = make_actors(cluster, config, make_engine, most_attempts)
        self._heartbeats = HeartbeatSchedule(min(job.cluster.heartbeat_s, limits.heartbeat_timeout_s / 4))
        self.run_limits = RunLimits(job.cluster, store, spent)

    def start(self, shards: Sequence[int], rows: int) -> None:
        """Begin with `shards`, which have `rows` rows. Raises `StoreError`."""
        self._dispatcher = self._make_dispatcher(shards)
        self._dispatcher.queue.may_take = self._driver_watch.may_take
        self._counter.start(rows, len(shards), self._config.driver)
        self._driver_watch.start()
        self._cluster_watch.start()

    def close(self, interrupted: bool) -> None:
        """End all actors; after an interruption, wait a moment for commits that are being written."""
        self._actors.end_all(_COMMIT_WAIT_S if interrupted else 0.0)
        self._cluster_watch.close()
        self._driver_watch.close()

    def turn(self) -> Progress:
        """Hear the actors, decide, and act; takes a fraction of a second. Returns the progress. Raises like `Pool.run`.

        Actors have work at hand, and many of them send replies all the time: these are waited for together.
        """
        time.sleep(min(_POLL_INTERVAL_S, _PAUSE_PER_ACTOR_S * len(self._dispatcher.actors)))
        self._cluster_watch.check()
        self._clock.tick()
        # What is there is heard before anything is decided: after a pause of the driver, that is every answer.
        for call, reply in self._actors.collect_replies(_POLL_INTERVAL_S):
            self._handle_reply(call, reply)
        for actor in self._heartbeats.list_unreachable(self._clock.now):
            self._lose_actor(actor, "node", "it was out of reach")
        self._look_at_cluster()
        self._share_with_other_drivers()
        self._carry_out_actions()
        self._driver_watch.progress = progress = self.progress
        self.run_limits.check(self._dispatcher, self._driver_watch.pause)
        return progress

    # ------------------------------------------------------------ state

    @property
    def finished(self) -> bool:
        """Whether every shard is done or given up."""
        return self._dispatcher.finished

    @property
    def given_up(self) -> dict[int, str]:
        """The shards that are given up -> why."""
        return dict(self._dispatcher.given_up)

    @property
    def set_aside(self) -> dict[str, str]:
        """The hosts of the nodes where no actor is started any more -> why."""
        hosts = self._cluster_watch.hosts
        return {hosts.get(node, node): reason for node, reason in self._dispatcher.machines.set_aside.items()}

    @property
    def peak_rss_mb(self) -> float:
        """The most memory of an actor."""
        return self._counter.peak_rss_mb

    @property
    def progress(self) -> Progress:
        """How far the run is."""
        dispatcher = self._dispatcher
        if dispatcher.finished:
            self._counter.stop_clock()
        elsewhere = len(self._driver_watch.claimed_elsewhere)
        waits = describe_waits(dispatcher, self._cluster_watch, self._clock.now, elsewhere)
        waits = (*self.run_limits.describe_stop(), *waits)
        return self._counter.current(dispatcher.shards_done, dispatcher.ready_actors, dispatcher.deaths, waits)

    def _make_dispatcher(self, shards: Sequence[int]) -> Dispatcher:
        return Dispatcher(shards, self._plan.shard_rows, self._limits, self._fewest_actors, self._most_actors)

    # ------------------------------------------------------------ one turn

    def _look_at_cluster(self) -> None:
        if self._cluster_watch.usable_nodes != self._dispatcher.machines.nodes:
            self._dispatcher.on_nodes(self._cluster_watch.usable_nodes)

    def _share_with_other_drivers(self) -> None:
        dispatcher, watch = self._dispatcher, self._driver_watch
        for shard in dispatcher.on_committed_elsewhere(watch.committed):
            self._counter.on_committed_elsewhere(self._plan.shard_rows(shard))
        if dispatcher.may_claim(self._clock.now):
            watch.propose(
                [*dispatcher.held_shards, *dispatcher.queue.retried_shards],
                dispatcher.next_untried(lambda shard: shard not in watch.claimed_elsewhere),
            )
        else:
            watch.propose([], [])

    def _carry_out_actions(self) -> None:
        now = self._clock.now
        for action in self._dispatcher.decide(now):
            match action:
                case StartActor(actor, avoid):
                    self._actors.start(actor, avoid)
                case AssignAttempt(actor, attempt):
                    self._actors.assign(actor, attempt)
                    self._counter.on_assigned(attempt)
                case KillActor(actor) | StopActor(actor):
                    self._end_actor(actor)
        for actor in self._heartbeats.take_due(now):
            self._actors.ask_heartbeat(actor)
            self._dispatcher.on_heartbeat_asked(actor, now)

    def _end_actor(self, actor: int) -> None:
        self._actors.end(actor)
        self._counter.forget_actor(actor)
        self._heartbeats.forget(actor)

    def _lose_actor(self, actor: int, cause: DeathCause, reason: str, error: UserError | None = None) -> None:
        self._counter.on_lost(actor, reason)
        self._end_actor(actor)
        self._dispatcher.on_died(actor, cause, reason, self._clock.now, error)

    # ------------------------------------------------------------ replies of actors

    def _handle_reply(self, call: PendingCall, reply: object) -> None:
        match reply:
            case CallFailed(error):
                self._handle_error(call, error)
            case ActorUnreachable():
                self._heartbeats.note_unreachable(call.actor, self._clock.now)
            case ActorEnded(cause, reason):
                self._handle_death(call.actor, cause, reason)
            case _:
                self._handle_value(call, reply)

    def _handle_value(self, call: PendingCall, value: object) -> None:
        now = self._clock.now
        match value:
            case StartedActor():
                self._dispatcher.on_started(call.actor, value.node, now)
            case LoadedActor():
                self.loaded_actors.append(value)
                self._counter.on_ready(call.actor, value)
                self._heartbeats.ask_at(call.actor, now)
                self._dispatcher.on_ready(call.actor, now, value.slots)
            case ShardReport():
                self._handle_report(call.actor, value)
            case Heartbeat():
                self._handle_heartbeat(call.actor, value)

    def _handle_report(self, actor: int, report: ShardReport) -> None:
        if report.closed_by is not None:
            raise RunClosed.by(self._plan.run, report.closed_by)
        self.run_limits.on_reported(actor)
        if self._dispatcher.on_finished(actor, report.attempt, report.made):
            self._counter.on_committed(actor, report)

    def _handle_heartbeat(self, actor: int, heartbeat: Heartbeat) -> None:
        if self._heartbeats.is_unreachable(actor):  # it lives, but the reply of a shard that it was making is lost
            self._lose_actor(actor, "node", "the connection to it was lost")
            return
        self._counter.on_heartbeat(actor, heartbeat)
        self._dispatcher.on_heartbeat(actor, heartbeat)
        state = self._dispatcher.actors.get(actor)
        is_first = state is not None and bool(state.attempts) and not state.clips
        self._heartbeats.on_heartbeat(actor, self._clock.now, is_first)

    def _handle_error(self, call: PendingCall, error: Exception) -> None:
        reason = str(error) if isinstance(error, MusicGenError) else f"{type(error).__name__}: {error}"
        if isinstance(error, StoreUnavailable | StoreFull | StoreDenied):  # the actor has waited for it long enough
            raise ActorsFailed(f"{reason}; what is committed is safe, run the same job again to go on") from error
        if isinstance(error, NodeFault):
            self._end_actor(call.actor)
            self._dispatcher.on_node_fault(call.actor, reason, self._clock.now)
        elif call.method in ("load_model", "report_start"):
            self._lose_actor(call.actor, "error", reason, error if isinstance(error, UserError) else None)
        elif isinstance(error, SlotsLowered):
            self._lose_actor(call.actor, "slots", reason)
        elif isinstance(error, EngineFailed):
            self._lose_actor(call.actor, "engine", reason)
        elif call.attempt is not None:
            self._dispatcher.on_failed(call.actor, call.attempt, reason, self._clock.now)

    # ------------------------------------------------------------ actors that are gone

    def _handle_death(self, actor: int, cause: DeathCause, reason: str) -> None:
        state, hosts = self._dispatcher.actors.get(actor), self._cluster_watch.hosts
        if state is not None and cause == "crash" and not self._cluster_watch.is_alive(state.node):
            cause = "node"
        if state is not None and state.node and len(hosts) > 1:
            reason += f" on {hosts.get(state.node, state.node)}"
        self._lose_actor(actor, cause, reason)
