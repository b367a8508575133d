"""Counts what the actors of a run have made, from their reports and heartbeats."""

import time
from dataclasses import replace

from actors.messages import Heartbeat, Progress, ShardReport


class ProgressCounter:
    """Adds up committed shards, and the rows that each actor has made since."""

    def __init__(self, rows: int = 0, shards: int = 0):
        self.peak_rss_mb = 0.0
        self._committed = Progress(rows, shards)
        self._heartbeats: dict[int, Heartbeat] = {}
        self._first_ready_at: float | None = None

    def on_ready(self, now: float) -> None:
        """Start the clock of generation, when the first actor is ready."""
        self._first_ready_at = self._first_ready_at or now

    def on_heartbeat(self, actor: int, heartbeat: Heartbeat) -> None:
        """Replace what the actor has made and not committed."""
        self._heartbeats[actor] = heartbeat
        self.peak_rss_mb = max(self.peak_rss_mb, heartbeat.peak_rss_mb)

    def on_committed(self, actor: int, report: ShardReport) -> None:
        """Count the rows of a committed shard, which are no longer uncommitted ones of its actor.

        A shard that another driver has committed counts too, with the rows that the store has.
        """
        self._committed = replace(
            self._committed,
            made=self._committed.made + report.made,
            failed=self._committed.failed + report.failed,
            audio_s=self._committed.audio_s + report.audio_s,
        )
        heartbeat = self._heartbeats.get(actor, Heartbeat())
        self._heartbeats[actor] = replace(
            heartbeat,
            uncommitted_rows=max(0, heartbeat.uncommitted_rows - report.made - report.failed),
            uncommitted_audio_s=max(0.0, heartbeat.uncommitted_audio_s - report.audio_s),
        )

    def forget_actor(self, actor: int) -> None:
        """Drop what an actor that has ended had not committed."""
        self._heartbeats.pop(actor, None)

    def current(self, shards_done: int, actors: int, crashes: int, preemptions: int) -> Progress:
        """Return the progress of the run, with the counts that the dispatcher keeps."""
        heartbeats = self._heartbeats.values()
        return replace(
            self._committed,
            shards_done=shards_done,
            uncommitted_rows=sum(heartbeat.uncommitted_rows for heartbeat in heartbeats),
            uncommitted_audio_s=sum(heartbeat.uncommitted_audio_s for heartbeat in heartbeats),
            actors=actors,
            crashes=crashes,
            preemptions=preemptions,
            generating_s=0.0 if self._first_ready_at is None else time.monotonic() - self._first_ready_at,
        )
