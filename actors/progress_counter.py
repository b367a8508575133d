"""Counts what the actors of a run have made, from their reports and heartbeats."""

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace

from actors.actor_measures import ActorMeasures, measure_store
from actors.death_counts import DeathCounts
from actors.messages import Heartbeat, LoadedActor, Progress, RunEvent, ShardAttempt, ShardReport
from musicgen.unfinished_clips import UnfinishedClips


class ProgressCounter:
    """Adds up committed shards, and the rows that each actor has made since. `driver` names this driver's attempts."""

    def __init__(
        self, rows: int = 0, shards: int = 0, driver: str = "", on_event: Callable[[RunEvent], None] | None = None
    ):
        self.peak_rss_mb = 0.0
        self._on_event = on_event or (lambda event: None)
        self.start(rows, shards, driver)
        self._heartbeats: dict[int, Heartbeat] = {}
        self._retries = 0
        self._failures: Counter[str] = Counter()
        self._ended_measures = ActorMeasures()  # counts of actors that have ended
        self._first_ready_at: float | None = None
        self._ended_at: float | None = None

    def start(self, rows: int, shards: int, driver: str) -> None:
        """Begin with so many rows, in so many shards."""
        self._driver = driver
        self._committed = Progress(rows, shards)

    def on_assigned(self, attempt: ShardAttempt) -> None:
        """Count an attempt, if it is not the first at its shard."""
        self._retries += attempt.number > 0

    def on_lost(self, actor: int, reason: str) -> None:
        """Tell that an actor is gone, and why."""
        self._on_event(RunEvent("warning", f"actor {actor} is gone: {reason}", actor))

    def on_ready(self, actor: int, loaded: LoadedActor) -> None:
        """Start the clock of generation, when the first actor is ready."""
        self._on_event(RunEvent("info", f"actor {actor} is ready on {loaded.host}, with {loaded.slots} slots", actor))
        self._first_ready_at = self._first_ready_at or time.monotonic()

    def on_heartbeat(self, actor: int, heartbeat: Heartbeat) -> None:
        """Replace what the actor has made and not committed."""
        self._heartbeats[actor] = heartbeat
        self.peak_rss_mb = max(self.peak_rss_mb, heartbeat.peak_rss_mb)

    def on_committed(self, actor: int, report: ShardReport) -> None:
        """Count the rows of a committed shard, which are no longer uncommitted ones of its actor.

        A shard that another driver has committed does not count as made by this one.
        """
        text = f"shard {report.attempt.shard} is committed: {report.made} made, {report.failed} failed"
        self._on_event(RunEvent("info", text, actor, report.attempt.shard))
        if report.won or report.committed_by.startswith(f"{self._driver}-"):
            self._committed = replace(
                self._committed,
                made=self._committed.made + report.made,
                failed=self._committed.failed + report.failed,
                audio_s=self._committed.audio_s + report.audio_s,
            )
            self._failures.update(dict(report.failures))
        else:
            self.on_committed_elsewhere(report.made + report.failed)
        heartbeat = self._heartbeats.get(actor, Heartbeat())
        rows = report.made + report.failed
        self._heartbeats[actor] = replace(
            heartbeat,
            unfinished=heartbeat.unfinished.without(max(0, rows - heartbeat.uncommitted_rows)),
            uncommitted_rows=max(0, heartbeat.uncommitted_rows - rows),
            uncommitted_audio_s=max(0.0, heartbeat.uncommitted_audio_s - report.audio_s),
            measures=report.measures or heartbeat.measures,
        )

    def on_committed_elsewhere(self, rows: int) -> None:
        """Count the rows of a shard that another driver has committed."""
        self._committed = replace(self._committed, rows_elsewhere=self._committed.rows_elsewhere + rows)

    def forget_actor(self, actor: int) -> None:
        """Drop what an actor that has ended had not committed."""
        if (heartbeat := self._heartbeats.pop(actor, None)) is not None:
            self._ended_measures += heartbeat.measures.counts

    def stop_clock(self) -> None:
        """End the time of generation, when the run ends: the summary's rate is then the one that was shown last."""
        if self._first_ready_at is not None:
            self._ended_at = self._ended_at or time.monotonic()

    def current(self, shards_done: int, actors: int, deaths: DeathCounts, waiting_for: tuple[str, ...]) -> Progress:
        """Return the progress of the run, with the counts that the dispatcher keeps."""
        heartbeats = self._heartbeats.values()
        return replace(
            self._committed,
            shards_done=shards_done,
            uncommitted_rows=sum(heartbeat.uncommitted_rows for heartbeat in heartbeats),
            uncommitted_audio_s=sum(heartbeat.uncommitted_audio_s for heartbeat in heartbeats),
            unfinished=UnfinishedClips(
                sum(heartbeat.unfinished.clips for heartbeat in heartbeats),
                sum(heartbeat.unfinished.audio_s for heartbeat in heartbeats),
            ),
            actors=actors,
            crashes=deaths.crashes,
            preemptions=deaths.preemptions,
            losses=deaths.losses,
            kills=deaths.kills,
            generating_s=self._measure_generating_s(),
            waiting_for=waiting_for,
            failures=tuple(sorted(self._failures.items())),
            retries=self._retries,
            measures=ActorMeasures.sum_all(
                [self._ended_measures, measure_store(), *(heartbeat.measures for heartbeat in heartbeats)]
            ),
        )

    def _measure_generating_s(self) -> float:
        if self._first_ready_at is None:
            return 0.0
        return (self._ended_at or time.monotonic()) - self._first_ready_at
