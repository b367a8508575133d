"""`python -m tests.cuda_trace events` or `... steps [SIZE ...]`: the costs as JSON.

`filled-steps` are those with the longest rows alone, `placing` is what the other slots wait for. With
`fallback-events` or `fallback-steps` it is torch's operations that are traced, without Triton.
"""

import json
import sys
from dataclasses import asdict
from unittest.mock import patch

import numpy as np
import torch
from numpy.typing import NDArray
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from musicgen.model.spec import Kind
from tests.cuda_trace.codec import trace_codec
from tests.cuda_trace.guard import register_device_guard
from tests.cuda_trace.models import SIZES
from tests.cuda_trace.placing import trace_placing
from tests.cuda_trace.trace import (
    BRANCHES,
    CONTEXT_FRAMES,
    FILLED,
    HALF_FILLED,
    PassedEvent,
    trace_events,
    trace_mistakes,
    trace_step,
)

# Kind, clips at once, known steps: a later window, a long continuation, and many new clips.
PLACED: tuple[tuple[Kind, int, int], ...] = (
    ("text", 1, CONTEXT_FRAMES + 1),
    ("text", 1, 1401),
    ("text", 20, 1),
    ("melody", 1, CONTEXT_FRAMES + 1),
    ("melody", 8, 1),
)


def _make_empty_array(tensor: torch.Tensor) -> NDArray[np.int32]:
    """Stand in for a fake tensor's numbers, after they have been copied to the host."""
    assert tensor.device.type == "cpu"
    return np.zeros(tuple(tensor.shape), np.int32)


def main(subject: str, *sizes: str) -> None:
    """Print the costs of all events, or of steps of models of these sizes (default: all), as JSON."""
    torch.set_num_threads(1)
    register_device_guard()
    with (
        FakeTensorMode(),
        patch.object(FakeTensor, "numpy", _make_empty_array),
        patch.object(torch.cuda, "Event", PassedEvent),
    ):
        triton = not subject.startswith("fallback-")
        if subject == "placing":
            costs = [asdict(trace_placing(size, *case)) for size in sizes or SIZES for case in PLACED]
        elif subject.endswith("events"):
            costs = [asdict(cost) for kind in BRANCHES for cost in trace_events(kind, triton)]
            costs += [asdict(cost) for cost in (*trace_mistakes(), *trace_codec())]
        else:
            steps = [
                trace_step(size, longest, triton, slots)
                for size in sizes or SIZES
                for longest, slots in ((HALF_FILLED, None), (FILLED, None), (FILLED, 1))
                if longest == FILLED or subject != "filled-steps"
            ]
            costs = [
                {**asdict(step), "expected_s": step.expected_s, "bound_share": step.bound_share, "rate": step.rate}
                for step in steps
            ]
    json.dump(costs, sys.stdout, indent=1)


if __name__ == "__main__":
    main(*sys.argv[1:])
