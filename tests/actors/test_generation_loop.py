"""The generation thread: slots stay full across shards, the backlog is bounded, and its end is reported."""

import threading
import time
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest

from actors.generation_loop import GenerationLoop, QueuedRow
from actors.generator import Generator
from actors.messages import EngineFailed, NodeFault, SlotsLowered
from musicgen.clip import Clip, Failed
from musicgen.errors import RowError, StoreFull, StoreUnavailable
from musicgen.request import Request
from tests.actors.engines import ScriptedEngine


def make_clip(request: Request) -> Clip:
    return Clip(request, np.zeros((4, 5), np.int16), np.zeros((1, 3200), np.float32), 32000)


def make_rows(count: int, on_outcome, on_dropped=lambda failure: None, prefix: str = "") -> list[QueuedRow]:
    return [QueuedRow(Request(f"{prefix}{number}", seed=number), on_outcome, on_dropped) for number in range(count)]


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


def test_slots_are_used_by_the_rows_in_the_engine():
    class PreparingEngine(ScriptedEngine):
        @property
        def room(self) -> int:  # as the real one, which prepares the next rows meanwhile
            return 2 * self.slots - len(self.held)

    engine, settled = PreparingEngine(slots=4, make=make_clip), []
    engine.may_step.clear()
    loop = GenerationLoop(engine)
    used = partial(Generator._measure, SimpleNamespace(_config=SimpleNamespace(in_process=True)), engine, loop)
    assert used().slots_used == 0
    loop.submit(make_rows(3, settled.append))
    wait_until(lambda: loop.queued_rows == 0)
    assert used().slots_used == 3
    loop.submit(make_rows(9, settled.append, prefix="more"))
    engine.may_step.set()
    wait_until(lambda: len(settled) == 12)
    assert used().slots_used == 0
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


@pytest.mark.parametrize(
    ("error", "reported"),
    [
        (StoreUnavailable("s3://b/a.wav: no answer"), StoreUnavailable),
        (StoreFull("no room for a copy of the melody"), NodeFault),  # of this machine's disk: the output is not written
        (ValueError("a mistake of ours"), EngineFailed),
    ],
)
def test_what_ends_the_engine_is_charged_to_who_made_it(error: Exception, reported: type[Exception]):
    def fail(request: Request) -> Clip:
        raise error

    failures: list[Exception] = []
    loop = GenerationLoop(ScriptedEngine(2, fail))
    loop.submit(make_rows(3, print, failures.append))
    wait_until(lambda: len(failures) == 3)
    assert {type(failure) for failure in failures} == {reported}
    assert str(error) in str(failures[0])


class ShrinkingEngine(ScriptedEngine):
    """An engine that halves its slots before its step number `at`, as one does that runs out of memory."""

    def __init__(self, at: int):
        super().__init__(8, make_clip)
        self.at = at

    def step(self):
        if self.steps == self.at:
            self.slots //= 2
            self.steps += 1
            return []
        return super().step()


def test_slots_that_are_halved_before_the_first_clip_are_told_and_the_thread_goes_on():
    outcomes: list = []
    lowered: list[int] = []
    loop = GenerationLoop(ShrinkingEngine(at=0), lower_slots=lowered.append)
    loop.submit(make_rows(12, outcomes.append))
    wait_until(lambda: len(outcomes) == 12)
    assert lowered == [4]
    loop.close()


def test_slots_that_are_halved_after_the_first_clip_end_the_thread():
    outcomes: list = []
    failures: list[Exception] = []
    lowered: list[int] = []
    loop = GenerationLoop(ShrinkingEngine(at=3), lower_slots=lowered.append)
    loop.submit(make_rows(12, outcomes.append, failures.append))
    wait_until(lambda: len(failures) == 9)
    assert (lowered, len(outcomes)) == ([4], 3)
    assert {type(failure) for failure in failures} == {SlotsLowered}
    with pytest.raises(SlotsLowered, match="ran out of memory with 8 slots; actors that start now have 4"):
        loop.submit(make_rows(1, print))
    loop.close()


def test_a_store_that_cannot_be_used_keeps_no_slots_from_being_halved():
    """The lower number in the store is a help for those that start later; a full store is no fault of the node."""

    def refuse(slots: int) -> None:
        raise StoreFull("s3://bucket is full")

    outcomes: list = []
    loop = GenerationLoop(ShrinkingEngine(at=0), lower_slots=refuse)
    loop.submit(make_rows(12, outcomes.append))
    wait_until(lambda: len(outcomes) == 12)
    loop.close()


def test_slots_that_are_halved_once_codes_are_made_end_the_thread():
    """The engine knows: no clip may have been handed out yet."""
    failures: list[Exception] = []
    engine = ShrinkingEngine(at=0)
    engine.has_made_clips = True
    loop = GenerationLoop(engine, lower_slots=lambda slots: None)
    loop.submit(make_rows(12, print, failures.append))
    wait_until(lambda: len(failures) == 12)
    assert {type(failure) for failure in failures} == {SlotsLowered}
    loop.close()


def test_a_number_of_slots_that_the_job_demands_is_halved_and_the_thread_goes_on():
    outcomes: list = []
    loop = GenerationLoop(ShrinkingEngine(at=3))
    loop.submit(make_rows(12, outcomes.append))
    wait_until(lambda: len(outcomes) == 12)
    loop.close()
