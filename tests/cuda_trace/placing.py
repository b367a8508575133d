"""What it costs to put windows into slots: how long the slots that run wait between two of their steps."""

from dataclasses import dataclass

import numpy as np
import torch

from musicgen.engine.sequence import GENERATE, Window
from musicgen.engine.stepper import Stepper
from musicgen.model.decoder.decoder import Decoder
from musicgen.model.spec import Kind, ModelSpec
from musicgen.request import Request
from tests.cuda_trace.models import (
    MELODY_PREFIX,
    WINDOW_FRAMES,
    make_conditions,
    make_decoder,
    make_null_prefix,
    make_spec,
)
from tests.cuda_trace.trace import CAPACITY, choose_slots, place_window, run_event, without_inference_mode

LAUNCH_S = 15e-6  # of a kernel outside a graph, by Python
PRODUCT_RATE = 0.5 * 990e12  # half of an H100's peak in bfloat16


@dataclass
class PlacingCost:
    """Placing `clips` windows whose first `known` steps are given, while a slot runs: the kernels for which it waits
    between two of its steps, and the longest wait's expected duration on an H100 by a simple model.
    """

    size: str
    kind: Kind
    clips: int
    known: int
    kernels: list[int]
    longest_s: float


def trace_placing(size: str, kind: Kind, clips: int, known: int) -> PlacingCost:
    """Place windows, from counts with one layer and with two."""
    spec = make_spec(size, kind)
    slots = choose_slots(make_spec(size), triton=True)
    one, two = (_trace_waits(make_spec(size, kind, layers), clips, known, slots) for layers in (1, 2))
    kernels = [first + (spec.layers - 1) * (second - first) for (first, _), (second, _) in zip(one, two, strict=True)]
    positions = known - 1 + (MELODY_PREFIX if kind == "melody" else 0)
    waits_s = [
        count * LAUNCH_S + tokens * _count_token_flops(spec, positions) / PRODUCT_RATE
        for count, (_, tokens) in zip(kernels, one, strict=True)
    ]
    return PlacingCost(size, kind, clips, known, kernels, max(waits_s))


def _trace_waits(spec: ModelSpec, clips: int, known: int, slots: int) -> list[tuple[int, int]]:
    """Kernels, and tokens through the layers, of each wait of a slot that runs."""
    device = torch.device("cuda", 0)
    with torch.no_grad():
        decoder = _CountingDecoder.copy_of(make_decoder(spec, device))
        stepper = Stepper(decoder, slots, width=2, capacity=CAPACITY)
    shared = None if spec.kind == "text" else make_null_prefix(spec, device)
    request = Request(prompt="x", seed=1, top_k=250)

    def window(known: int) -> Window:
        sequence = np.full((spec.codebooks, CAPACITY), GENERATE, np.int32)
        sequence[:, :known] = 0
        return Window(0, 0, WINDOW_FRAMES, sequence, known)

    with torch.no_grad():
        place_window(stepper, 0, window(1), make_conditions(spec, device), request)
        without_inference_mode(Stepper.step, stepper)
    for slot in range(1, 1 + clips):
        conditions = make_conditions(spec, device, shared)
        without_inference_mode(Stepper.begin_placing, stepper, slot, window(known), conditions, request)
    waits = []
    while stepper.is_filling:
        decoder.tokens = 0
        cost = run_event("wait", spec.kind, lambda: without_inference_mode(Stepper.fill_slots, stepper))
        assert not cost.error, cost.error
        waits.append((cost.kernels, decoder.tokens))
    return waits


class _CountingDecoder(Decoder):
    """Counts the tokens that go through its layers."""

    tokens = 0

    @classmethod
    def copy_of(cls, decoder: Decoder) -> "_CountingDecoder":
        counting = cls.__new__(cls)
        counting.__dict__.update(decoder.__dict__)
        return counting

    def forward(self, x: torch.Tensor, *rest: object) -> torch.Tensor:
        """Count, and run the layers."""
        self.tokens += x.shape[0]
        return super().forward(x, *rest)  # type: ignore[arg-type]


def _count_token_flops(spec: ModelSpec, positions: int) -> float:
    """Of one token: products, and attention to no more than `positions`."""
    weights = spec.layers * (6 * spec.hidden**2 + 2 * spec.hidden * spec.ffn)
    return 2.0 * weights + 4 * spec.layers * spec.hidden * positions
