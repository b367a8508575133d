"""Runs the engine's own events and steps on fake CUDA tensors, and reports what each would cost.

`python -m tests.cuda_trace events` and `... steps` print JSON. It is a process of its own, because the device guard
stays registered for its life.
"""

import traceback
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
import torch

from musicgen.conditioning.conditions import Conditions
from musicgen.engine.device_copies import HostCopy
from musicgen.engine.memory import plan_slots
from musicgen.engine.sequence import GENERATE, Window
from musicgen.engine.stepper import Stepper
from musicgen.model.spec import Kind, ModelSpec
from musicgen.request import Request
from tests.cuda_trace.counter import OperationCounter
from tests.cuda_trace.launch_bytes import MeanLengths
from tests.cuda_trace.models import (
    TEXT_STATES,
    WINDOW_FRAMES,
    count_weights,
    least_step_bytes,
    make_conditions,
    make_decoder,
    make_null_prefix,
    make_spec,
)

CONTEXT_FRAMES = 600  # 12 s of known codes: a later window of a long clip
CAPACITY = WINDOW_FRAMES + 4
HALF_FILLED, FILLED = 768, 1536  # positions of the longest row, in whole blocks of the cache
BRANCHES: dict[Kind, int] = {"text": 2, "melody": 2, "style": 3}
FRAME_RATE = 50
KERNEL_START_S, BANDWIDTH_SHARE, H100_BANDWIDTH = 1.5e-6, 0.85, 3.35e12
_EVENT_LAYERS = 1
_FREE_BYTES = 79.6e9 - 2.2e9  # of a card of 80 GB, less text encoder, codec and CUDA's own


@dataclass
class EventCost:
    """What one event or step costs; `error` is what it raised."""

    name: str
    kind: Kind
    kernels: int = 0
    bytes: int = 0
    host_copies: int = 0
    host_reads: int = 0
    blocking_copies: int = 0
    host_waits: int = 0  # for events
    host_operands: dict[str, int] = field(default_factory=dict)
    error: str = ""


class PassedEvent:
    """Stands in for `torch.cuda.Event`, and counts how often the host waits for one."""

    waits = 0

    def record(self) -> None:
        """Mark nothing: there is no stream."""

    def query(self) -> bool:
        """Say that the device has come here."""
        return True

    def synchronize(self) -> None:
        """Count a wait."""
        PassedEvent.waits += 1


@dataclass
class StepCost:
    """What a decode step of a whole model costs when every slot runs and the longest row has `longest` positions.

    `least_bytes` is what it has to move if the rows are half as long on average.
    """

    size: str
    slots: int
    longest: int
    layers: int
    kernels: int
    kernels_per_layer: int
    bytes: int
    least_bytes: float
    triton: bool = True
    operations: dict[str, int] = field(default_factory=dict)  # of one layer

    @property
    def expected_s(self) -> float:
        """The duration on an H100 by a simple model: each kernel of a graph begins 1.5 us after the one before ends,
        and moves its bytes at 85 % of the bandwidth.
        """
        return self.kernels * KERNEL_START_S + self.bytes / (BANDWIDTH_SHARE * H100_BANDWIDTH)

    @property
    def bound_share(self) -> float:
        """The share of the bandwidth's bound that is to be expected."""
        return self.least_bytes / H100_BANDWIDTH / self.expected_s

    @property
    def rate(self) -> float:
        """The audio-seconds per second that are to be expected."""
        return self.slots / FRAME_RATE / self.expected_s


def trace_events(kind: Kind, triton: bool, size: str = "small") -> list[EventCost]:
    """Place, step, read, lengthen and clear with a model of `_EVENT_LAYERS` layers and true widths."""
    device = torch.device("cuda", 0)
    spec = make_spec(size, kind, layers=_EVENT_LAYERS)
    with torch.no_grad():
        stepper = Stepper(make_decoder(spec, device, triton), slots=4, width=BRANCHES[kind], capacity=CAPACITY)
    shared = None if kind == "text" else make_null_prefix(spec, device)
    request = Request(prompt="x", seed=1, top_k=0 if kind == "style" else 250, top_p=0.9 if kind == "style" else 0.0)

    def place(slot: int, known: int = 1, steps: int = 60) -> None:
        sequence = np.full((spec.codebooks, steps), GENERATE, np.int32)
        sequence[:, :known] = 0
        window = Window(0, 0, steps - 4, sequence, known)
        place_window(stepper, slot, window, make_conditions(spec, device, shared), request)

    def step() -> None:
        without_inference_mode(Stepper.step, stepper)

    taken: list[HostCopy] = []
    return [
        run_event("place", kind, partial(place, 0)),
        run_event("place another", kind, partial(place, 3)),
        run_event("place after 12 s", kind, partial(place, 1, known=CONTEXT_FRAMES + 1, steps=CAPACITY)),
        run_event("first step", kind, step),
        run_event("step", kind, step),
        run_event("take", kind, lambda: taken.append(stepper.take(0, 60))),
        run_event("read", kind, lambda: taken[0].read()),
        run_event("clear", kind, lambda: stepper.clear(0)),
        run_event("wipe", kind, lambda: without_inference_mode(Stepper.wipe, stepper, 0)),
        run_event("lengthen", kind, partial(place, 2, steps=2 * CAPACITY)),
        run_event("step of the longer cache", kind, step),
    ]


def trace_mistakes() -> list[EventCost]:
    """What a trace must not let pass: another device, a number read by the host, an operand on the host."""
    device = torch.device("cuda", 0)
    on_device, on_host = torch.ones(4, device=device), torch.ones(4)
    return [
        run_event("two devices", "text", lambda: on_device + on_host),
        run_event("a number read", "text", lambda: on_device.sum().item()),
        run_event("a shape read", "text", lambda: on_device.nonzero()),
        run_event("an index on the host", "text", lambda: on_device[on_host.long()]),
    ]


def trace_step(size: str, longest: int, triton: bool = True, slots: int | None = None) -> StepCost:
    """A decode step, from counts with one layer and with two; by default at as many slots as fit a card of 80 GB."""
    spec = make_spec(size)
    slots = slots or choose_slots(spec, triton)
    one, two = (_count_step(make_spec(size, layers=layers), slots, longest, triton) for layers in (1, 2))
    kernels_per_layer = two.kernels.total() - one.kernels.total()
    bytes_per_layer = two.bytes.total() - one.bytes.total()
    return StepCost(
        size=size,
        slots=slots,
        longest=longest,
        layers=spec.layers,
        kernels=one.kernels.total() + (spec.layers - 1) * kernels_per_layer,
        kernels_per_layer=kernels_per_layer,
        bytes=one.bytes.total() + (spec.layers - 1) * bytes_per_layer,
        least_bytes=least_step_bytes(spec, slots, min(longest, CAPACITY) / 2),
        triton=triton,
        operations={name: count for name in two.kernels if (count := two.kernels[name] - one.kernels[name])},
    )


def choose_slots(spec: ModelSpec, triton: bool) -> int:
    """The slots that `auto` plans on a card of 80 GB."""
    decoder = make_decoder(spec, torch.device("cuda", 0), triton)
    return plan_slots(decoder, 2, CAPACITY, round(_FREE_BYTES - 2 * count_weights(spec))).slots


def _count_step(spec: ModelSpec, slots: int, longest: int, triton: bool) -> OperationCounter:
    device = torch.device("cuda", 0)
    with torch.no_grad():
        stepper = Stepper(make_decoder(spec, device, triton), slots, 2, CAPACITY)
        sequence = np.full((spec.codebooks, CAPACITY), GENERATE, np.int32)
        sequence[:, :1] = 0
        request = Request(prompt="x", seed=1, top_k=250)
        window = Window(0, 0, WINDOW_FRAMES, sequence, 1)
        place_window(stepper, 0, window, make_conditions(spec, device), request)
        for slot in range(1, slots):  # the same window in all slots; placing each would take minutes of tracing
            stepper._placed[slot] = replace(stepper._placed[0], params=stepper._placed[0].params.copy())
        batch = stepper._next_batch()
        with OperationCounter(MeanLengths(min(longest, CAPACITY) / 2, TEXT_STATES)) as counter:
            stepper._run_step(batch, longest)
    return counter


def run_event(name: str, kind: Kind, event: Callable[[], object]) -> EventCost:
    """Run an event, and count what it costs."""
    cost, waits_before = EventCost(name, kind), PassedEvent.waits
    with torch.no_grad(), OperationCounter() as counter:
        try:
            event()
        except Exception as error:
            place = [f"{frame.filename}:{frame.lineno}" for frame in traceback.extract_tb(error.__traceback__)]
            cost.error = f"{type(error).__name__}: {str(error)[:300]} at {place[-6:]}"
    cost.kernels, cost.bytes = counter.kernels.total(), counter.bytes.total()
    cost.host_copies, cost.host_reads = counter.host_copies, counter.host_reads
    cost.blocking_copies, cost.host_waits = counter.blocking_copies, PassedEvent.waits - waits_before
    cost.host_operands = dict(counter.host_operands)
    return cost


def place_window(stepper: Stepper, slot: int, window: Window, conditions: Conditions, request: Request) -> None:
    """Place a window, chunk by chunk."""
    without_inference_mode(Stepper.begin_placing, stepper, slot, window, conditions, request)
    while stepper.is_filling:
        without_inference_mode(Stepper.fill_slots, stepper)


def without_inference_mode(function: Callable[..., object], *args: object, **kwargs: object) -> object:
    """Call what `torch.inference_mode` has wrapped: that mode hides the kernels of composite operations."""
    wrapped: Callable[..., object] = function.__wrapped__  # type: ignore[attr-defined]
    return wrapped(*args, **kwargs)
