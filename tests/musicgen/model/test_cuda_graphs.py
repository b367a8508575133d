"""Graphs of steps, with a recorder in CUDA's place: when they are captured and replayed, and what happens if they
cannot be.
"""

import inspect
import logging
from collections.abc import Callable
from typing import Any

import pytest
import torch

from musicgen.model.decoder import decoder as decoder_module
from musicgen.model.decoder.cuda_graphs import StepGraphs, find_graph_capture
from tests.musicgen.model.graph_recorder import Recorder


class Counter:
    """Work on a buffer, which counts on the host how often it was really run."""

    def __init__(self) -> None:
        self.buffer = torch.zeros(3, dtype=torch.int64)
        self.runs = 0

    def add(self, by: int = 1) -> None:
        self.runs += 1
        row = self.buffer[1:]
        row += torch.full_like(row, by)


def test_work_is_run_then_captured_then_replayed() -> None:
    counter, recorder = Counter(), Recorder()
    graphs = StepGraphs(recorder)
    for times in range(1, 6):
        graphs.run("a", counter.add)
        assert counter.buffer.tolist() == [0, times, times], "once each time, and a capture does nothing"
    assert (recorder.warmed, recorder.captured, counter.runs) == (1, 1, 2)
    for _ in range(3):
        graphs.run("b", lambda: counter.add(10))
        graphs.run("a", counter.add)
    assert counter.buffer.tolist() == [0, 38, 38]
    assert (recorder.warmed, recorder.captured, counter.runs) == (2, 2, 4)


def test_a_buffer_that_is_replaced_is_missed_unless_the_graphs_are_cleared() -> None:
    counter = Counter()
    graphs = StepGraphs(Recorder())
    graphs.run("a", counter.add)
    graphs.run("a", counter.add)
    counter.buffer = counter.buffer.clone()
    graphs.run("a", counter.add)
    assert counter.buffer.tolist() == [0, 2, 2], "as with CUDA: the old buffer was counted up"
    graphs.clear()
    for _ in range(3):
        graphs.run("a", counter.add)
    assert counter.buffer.tolist() == [0, 5, 5]


@pytest.mark.parametrize(
    "broken",
    [
        lambda buffer: buffer.sum().item(),
        lambda buffer: torch.tensor([1, 2, 3]) + buffer,
        lambda buffer: buffer[buffer > 0],
        lambda buffer: buffer.nonzero(),
        lambda buffer: int(buffer[0]),
    ],
)
def test_what_cannot_be_captured_is_run_as_it_is_with_one_warning(
    broken: Any, caplog: pytest.LogCaptureFixture
) -> None:
    counter, recorder = Counter(), Recorder()
    graphs = StepGraphs(recorder)
    assert graphs.active
    graphs.run("fine", counter.add)
    graphs.run("fine", counter.add)

    def work() -> None:
        counter.add(100)
        broken(counter.buffer)

    with caplog.at_level(logging.WARNING):
        for _ in range(4):
            graphs.run("broken", work)
            graphs.run("fine", counter.add)
    assert counter.buffer.tolist() == [0, 406, 406], "what a failed capture had begun is not done twice"
    (record,) = caplog.records
    assert "not permitted when stream is capturing" in record.getMessage()
    assert graphs.active, "the other key keeps its graph"
    assert (recorder.captured, counter.runs) == (1, 2 + 5), "and the broken one is not captured again"


def test_graphs_are_inactive_when_no_capture_succeeds() -> None:
    counter = Counter()
    graphs = StepGraphs(Recorder())
    for _ in range(3):
        graphs.run("broken", lambda: counter.add(int(counter.buffer[0]) + 1))
    assert not graphs.active
    assert counter.buffer.tolist() == [0, 3, 3]


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when")]
)
def test_a_capture_without_memory_raises_and_is_tried_again(error: Exception) -> None:
    class Cramped(Recorder):
        """It has no memory for the first capture."""

        def capture(self, work: Callable[[], None]) -> Callable[[], None]:
            if not self.captured:
                self.captured += 1
                raise error
            return super().capture(work)

    counter, cramped = Counter(), Cramped()
    graphs = StepGraphs(cramped)
    graphs.run("a", counter.add)
    with pytest.raises(type(error)):
        graphs.run("a", counter.add)
    assert graphs.active
    for times in range(2, 5):
        graphs.run("a", counter.add)
        assert counter.buffer.tolist() == [0, times, times]
    assert cramped.captured == 2


def test_there_are_graphs_on_cuda_unless_they_are_turned_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MUSICGEN_COMPILE", raising=False)
    cuda = torch.device("cuda")
    monkeypatch.setattr(decoder_module, "make_triton_ops", lambda *arguments: "no triton")
    ops = decoder_module._choose_ops(cuda, torch.bfloat16, 64)
    assert ops.name == "eager (no triton)"
    assert ops.captures_graphs
    assert find_graph_capture(torch.device("cpu")) is None
    monkeypatch.setenv("MUSICGEN_COMPILE", "0")
    ops = decoder_module._choose_ops(cuda, torch.bfloat16, 64)
    assert ops.name == "eager"
    assert not ops.captures_graphs
    assert ops.new_graph_capture() is None


def test_torch_still_takes_what_is_said_to_it() -> None:
    inspect.signature(torch.cuda.graph).bind(object(), pool=(0, 0), stream=object(), capture_error_mode="thread_local")
