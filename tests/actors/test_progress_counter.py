"""How far a run is: by committed shards, by clips that wait for their commit, and by decode steps within clips."""

import time

import pytest

from actors.actor_measures import ActorMeasures
from actors.death_counts import DeathCounts
from actors.messages import Heartbeat, LoadedActor, Progress, ShardAttempt, ShardReport
from actors.progress_counter import ProgressCounter
from musicgen.unfinished_clips import UnfinishedClips

LOADED = LoadedActor("host", 1, "{}", 4, 1.0)


def current(counter: ProgressCounter, shards_done: int = 0) -> Progress:
    return counter.current(shards_done, 1, DeathCounts(), ())


def test_progress_moves_within_a_shard() -> None:
    counter = ProgressCounter(rows=8, shards=1, driver="d")
    counter.on_ready(0, LOADED)
    counter.on_heartbeat(0, Heartbeat(unfinished=UnfinishedClips(2.0, 16.0)))
    progress = current(counter)
    assert (progress.settled, progress.done, progress.share) == (0, 2.0, 0.25)
    assert progress.rate == pytest.approx(16.0 / progress.generating_s)
    assert progress.eta_s == pytest.approx(3 * progress.generating_s)
    counter.on_heartbeat(0, Heartbeat(uncommitted_rows=3, uncommitted_audio_s=24, unfinished=UnfinishedClips(4.5, 36)))
    assert (current(counter).settled, current(counter).done) == (3, 7.5)


def test_a_commit_takes_its_clips_off_those_that_were_unfinished() -> None:
    counter = ProgressCounter(rows=10, shards=2, driver="d")
    counter.on_ready(0, LOADED)
    counter.on_heartbeat(0, Heartbeat(uncommitted_rows=3, uncommitted_audio_s=24, unfinished=UnfinishedClips(5.5, 44)))
    counter.on_committed(0, ShardReport(ShardAttempt(0), True, made=8, audio_s=64.0))
    progress = current(counter, 1)
    assert progress.settled == 8
    assert progress.done == 8.5
    assert progress.unfinished.audio_s == pytest.approx(4.0)
    counter.on_committed(0, ShardReport(ShardAttempt(1), True, made=2, audio_s=16.0))
    assert current(counter, 2).done == 10
    assert current(counter, 2).unfinished == UnfinishedClips()


def test_the_rate_stays_when_the_clock_is_stopped() -> None:
    counter = ProgressCounter(rows=1, shards=1, driver="d")
    assert current(counter).generating_s == 0
    counter.stop_clock()
    assert current(counter).generating_s == 0
    counter.on_ready(0, LOADED)
    counter.stop_clock()
    before = current(counter).generating_s
    time.sleep(0.02)
    assert current(counter).generating_s == before


def test_a_lost_actor_takes_its_unfinished_clips_with_it() -> None:
    counter = ProgressCounter(rows=4, shards=1, driver="d")
    counter.on_ready(0, LOADED)
    counter.on_heartbeat(0, Heartbeat(unfinished=UnfinishedClips(2.0, 16.0)))
    counter.forget_actor(0)
    assert current(counter).share == 0
    assert current(counter).eta_s is None


def test_measures_and_unfinished_clips_of_all_actors_add_up() -> None:
    counter = ProgressCounter(rows=8, shards=1, driver="d")
    for actor in range(3):
        measures = ActorMeasures(slots=4, slots_used=actor, steps=10, step_s=0.5, gpu_memory_bytes=1)
        counter.on_heartbeat(actor, Heartbeat(unfinished=UnfinishedClips(1.5, 12.0), measures=measures))
    counter.forget_actor(2)
    progress = current(counter)
    assert progress.unfinished == UnfinishedClips(3.0, 24.0)
    found = progress.measures
    assert (found.slots, found.slots_used, found.steps, found.step_s, found.gpu_memory_bytes) == (8, 1, 30, 1.5, 2)
