"""The generation thread: full slots across shards, a bounded backlog, and no silence when it ends."""

import threading
import time

import numpy as np
import pytest

from actors.generation_loop import Feed, Row
from actors.messages import EngineFailed
from musicgen.clip import Clip, Failed
from musicgen.errors import RowError
from musicgen.request import Request
from tests.actors.engines import Scripted


def clip(request: Request) -> Clip:
    return Clip(request, np.zeros((4, 5), np.int16), np.zeros((1, 3200), np.float32), 32000)


def rows(count: int, settle, lost=lambda failure: None, prefix: str = "") -> list[Row]:
    return [Row(Request(f"{prefix}{i}", seed=i), settle, lost) for i in range(count)]


def wait_until(true, timeout_s: float = 10.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not true():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.005)


def test_slots_stay_full_across_shards_and_every_row_is_settled_once():
    engine, settled = Scripted(slots=4, make=clip), []
    engine.may_step.clear()
    feed = Feed(engine, backlog=100)
    for shard in range(5):
        feed.submit(rows(7, lambda outcome: settled.append(outcome.request.prompt), prefix=f"{shard}-"))
    engine.may_step.set()
    wait_until(lambda: len(settled) == 35)
    assert len(set(settled)) == 35
    assert engine.most == 4
    assert engine.idle_while_waiting <= 4  # only while the last rows of all run out (and the first was let in alone)
    assert (feed.clips, round(feed.audio_s, 3)) == (35, 3.5)
    assert feed.stalled_s() == 0.0
    feed.close()


def test_a_failed_row_and_a_refused_row_are_settled_with_their_error():
    outcomes = {}

    class Refusing(Scripted):
        def add(self, request: Request) -> None:
            if request.prompt == "1":
                raise RowError("invalid", "not for this model")
            super().add(request)

    def make(request: Request):
        return Failed(request, RowError("generation", "NaN")) if request.prompt == "2" else clip(request)

    feed = Feed(Refusing(2, make))
    feed.submit(
        [Row(Request(str(i), seed=i), lambda outcome, i=i: outcomes.update({i: outcome}), print) for i in range(4)]
    )
    wait_until(lambda: len(outcomes) == 4)
    assert [getattr(outcomes[i], "error_class", "made") for i in range(4)] == ["made", "invalid", "generation", "made"]
    feed.close()


def test_slow_writers_hold_the_engine_back():
    may_write = threading.Event()
    written = []

    def settle(outcome) -> None:
        may_write.wait()
        written.append(outcome)

    engine = Scripted(2, clip)
    feed = Feed(engine, writers=2, backlog=5)
    feed.submit(rows(40, settle))
    time.sleep(0.3)
    assert engine.steps <= 6  # 5 in the backlog and one at its door: memory is bounded
    may_write.set()
    wait_until(lambda: len(written) == 40)
    feed.close()


def test_an_engine_that_raises_is_told_to_every_row_that_waits_and_to_whoever_comes_later():
    def make(request: Request):
        raise ZeroDivisionError("in the kernel")

    lost = []
    feed = Feed(Scripted(2, make))
    feed.submit(rows(9, print, lost.append))
    wait_until(lambda: len(lost) == 9)
    assert "ZeroDivisionError: in the kernel" in str(lost[0])
    with pytest.raises(EngineFailed, match="in the kernel"):
        feed.submit(rows(1, print))
    feed.close()


def test_standing_still_is_seen_and_idleness_is_not():
    engine = Scripted(2, clip)
    feed = Feed(engine)
    time.sleep(0.15)
    assert feed.stalled_s() == 0.0
    engine.may_step.clear()
    done = []
    feed.submit(rows(2, done.append))
    time.sleep(0.3)
    assert feed.stalled_s() >= 0.25
    engine.steps += 1  # a decode step inside a long event is progress
    assert feed.stalled_s() == 0.0
    engine.may_step.set()
    wait_until(lambda: len(done) == 2)
    assert feed.stalled_s() == 0.0
    feed.close()
