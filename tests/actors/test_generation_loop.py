"""The generation thread: slots stay full across shards, the backlog is bounded, and its end is reported."""

import threading
import time

import numpy as np
import pytest

from actors.generation_loop import GenerationLoop, QueuedRow
from actors.messages import EngineFailed
from musicgen.clip import Clip, Failed
from musicgen.errors import RowError
from musicgen.request import Request
from tests.actors.engines import ScriptedEngine


def make_clip(request: Request) -> Clip:
    return Clip(request, np.zeros((4, 5), np.int16), np.zeros((1, 3200), np.float32), 32000)


def make_rows(count: int, on_outcome, on_engine_failed=lambda failure: None, prefix: str = "") -> list[QueuedRow]:
    return [
        QueuedRow(Request(f"{prefix}{number}", seed=number), on_outcome, on_engine_failed) for number in range(count)
    ]


def wait_until(condition, timeout_s: float = 10.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true"
        time.sleep(0.005)


def test_slots_stay_full_across_shards_and_every_row_is_settled_once():
    engine, settled = ScriptedEngine(slots=4, make=make_clip), []
    engine.may_step.clear()
    loop = GenerationLoop(engine, backlog=100)
    for shard in range(5):
        loop.submit(make_rows(7, settled.append, prefix=f"{shard}-"))
    engine.may_step.set()
    wait_until(lambda: len(settled) == 35)
    assert len({clip.request.prompt for clip in settled}) == 35
    assert engine.max_held == 4
    assert engine.idle_while_waiting <= 4  # only while the last rows of all run out (and the first was let in alone)
    assert round(sum(clip.duration_s for clip in settled), 3) == 3.5
    assert loop.stalled_s() == 0.0
    loop.close()


def test_a_failed_row_and_an_invalid_row_are_settled_with_their_error():
    outcomes = {}

    class InvalidatingEngine(ScriptedEngine):
        def add(self, request: Request) -> None:
            if request.prompt == "1":
                raise RowError("invalid", "not for this model")
            super().add(request)

    def make(request: Request):
        return Failed(request, RowError("generation", "NaN")) if request.prompt == "2" else make_clip(request)

    loop = GenerationLoop(InvalidatingEngine(2, make))
    loop.submit(
        [
            QueuedRow(
                Request(str(number), seed=number),
                lambda outcome, number=number: outcomes.update({number: outcome}),
                print,
            )
            for number in range(4)
        ]
    )
    wait_until(lambda: len(outcomes) == 4)
    assert [getattr(outcomes[number], "error_class", "made") for number in range(4)] == [
        "made",
        "invalid",
        "generation",
        "made",
    ]
    loop.close()


def test_slow_writers_hold_the_engine_back():
    may_write = threading.Event()
    written = []

    def write(outcome) -> None:
        may_write.wait()
        written.append(outcome)

    engine = ScriptedEngine(2, make_clip)
    loop = GenerationLoop(engine, writers=2, backlog=5)
    loop.submit(make_rows(40, write))
    time.sleep(0.3)
    assert engine.steps <= 6  # 5 in the backlog and one that waits for it
    may_write.set()
    wait_until(lambda: len(written) == 40)
    loop.close()


def test_an_exception_of_the_engine_reaches_every_row_that_waits_and_every_later_one():
    def make(request: Request):
        raise ZeroDivisionError("in the kernel")

    failures = []
    loop = GenerationLoop(ScriptedEngine(2, make))
    loop.submit(make_rows(9, print, failures.append))
    wait_until(lambda: len(failures) == 9)
    assert "ZeroDivisionError: in the kernel" in str(failures[0])
    with pytest.raises(EngineFailed, match="in the kernel"):
        loop.submit(make_rows(1, print))
    loop.close()


def test_a_stall_is_measured_and_idle_time_is_not():
    engine = ScriptedEngine(2, make_clip)
    loop = GenerationLoop(engine)
    time.sleep(0.15)
    assert loop.stalled_s() == 0.0
    engine.may_step.clear()
    outcomes = []
    loop.submit(make_rows(2, outcomes.append))
    time.sleep(0.3)
    assert loop.stalled_s() >= 0.25
    engine.steps += 1  # a decode step is progress, also within a long call of step()
    assert loop.stalled_s() == 0.0
    engine.may_step.set()
    wait_until(lambda: len(outcomes) == 2)
    assert loop.stalled_s() == 0.0
    loop.close()
