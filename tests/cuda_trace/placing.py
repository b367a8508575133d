"""What it costs to put a window with known positions into a slot, while all other slots wait."""

from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from musicgen.engine.sequence import GENERATE, Window
from musicgen.engine.stepper import Stepper
from musicgen.model.spec import Kind, ModelSpec
from musicgen.request import Request
from tests.cuda_trace.models import MELODY_PREFIX, WINDOW_FRAMES, make_conditions, make_decoder, make_spec
from tests.cuda_trace.trace import CAPACITY, EventCost, run_event, without_inference_mode

LAUNCH_S = 15e-6  # of a kernel outside a graph, by Python
PRODUCT_RATE = 0.5 * 990e12  # half of an H100's peak in bfloat16


@dataclass
class PlacingCost:
    """Kernels of placing one window, and its expected duration on an H100 by a simple model."""

    size: str
    kind: Kind
    known: int
    kernels: int
    expected_s: float


def trace_placing(size: str, kind: Kind, known: int) -> PlacingCost:
    """Place a window whose first `known` steps are given, from counts with one layer and with two."""
    spec = make_spec(size, kind)
    one, two = (_trace_layers(make_spec(size, kind, layers), known) for layers in (1, 2))
    assert not one.error, one.error
    kernels = one.kernels + (spec.layers - 1) * (two.kernels - one.kernels)
    positions = known - 1 + (MELODY_PREFIX if kind == "melody" else 0)
    return PlacingCost(size, kind, known, kernels, kernels * LAUNCH_S + _count_flops(spec, positions) / PRODUCT_RATE)


def _trace_layers(spec: ModelSpec, known: int) -> EventCost:
    device = torch.device("cuda", 0)
    with torch.no_grad():
        stepper = Stepper(make_decoder(spec, device), slots=2, width=2, capacity=CAPACITY)
    sequence = np.full((spec.codebooks, CAPACITY), GENERATE, np.int32)
    sequence[:, :known] = 0
    window = Window(0, 0, WINDOW_FRAMES, sequence, known)
    request = Request(prompt="x", seed=1, top_k=250)
    conditions = make_conditions(spec, device)
    return run_event(
        "place", spec.kind, partial(without_inference_mode, Stepper.place, stepper, 0, window, conditions, request)
    )


def _count_flops(spec: ModelSpec, positions: int) -> float:
    """Of two branches: products, and causal attention."""
    weights = spec.layers * (6 * spec.hidden**2 + 2 * spec.hidden * spec.ffn)
    return 2 * positions * (2 * weights + 2 * spec.layers * spec.hidden * positions)
