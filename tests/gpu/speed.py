"""Audio-seconds per second of our step and of transformers' `generate`, and the bound of the measured bandwidth."""

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from musicgen.conditioning.conditions import Branch, Conditions
from musicgen.engine.memory import plan_slots
from musicgen.engine.sequence import GENERATE, Window
from musicgen.engine.stepper import Stepper
from musicgen.model.decoder.decoder import Decoder
from musicgen.model.memory_errors import is_out_of_memory
from musicgen.request import Request
from tests.cuda_trace.models import TEXT_STATES, least_step_bytes
from tests.gpu.shapes import Shape, build_decoder, build_peer

FRAME_RATE, DELAY_STEPS = 50, 4


@dataclass(frozen=True)
class Plan:
    """How much is measured."""

    frames: int  # of a clip of ours: slots hold clips at evenly spread places of it
    steps: int
    peer_frames: int  # shorter than ours: transformers reads fewer positions, which flatters it
    peer_batches: tuple[int, ...]
    slots: int | None = None  # None: as many as are planned from free memory


FULL = Plan(frames=1500, steps=100, peer_frames=250, peer_batches=(8, 32, 96))
TINY = Plan(frames=40, steps=3, peer_frames=6, peer_batches=(2,), slots=2)


def measure_bandwidth(device: torch.device) -> float:
    """Bytes per second that copying a large tensor reads and writes, the best of five."""
    count = 2**31 if device.type == "cuda" else 2**26
    source, target = (torch.zeros(count, dtype=torch.uint8, device=device) for _ in range(2))
    best_s = min(_time(lambda: target.copy_(source), device) for _ in range(5))
    return 2 * count / best_s


def measure_shape(
    shape: Shape, device: torch.device, dtype: torch.dtype, bandwidth: float, plan: Plan
) -> dict[str, Any]:
    """Both sides at one shape, random weights: rates in audio-seconds per second, and ours as a share of the bound."""
    peer = build_peer(shape, device, dtype)
    decoder = build_decoder(shape, peer, device, dtype)
    ours = _measure_ours(decoder, plan)
    bound_s = least_step_bytes(shape.spec, ours["slots"], ours["positions"]) * dtype.itemsize / 2 / bandwidth
    del decoder
    peers = {batch: _measure_peer(peer, batch, device, plan) for batch in plan.peer_batches}
    best = max((rate for rate in peers.values() if rate), default=0.0)
    return {
        "shape": shape.name,
        **ours,
        "bound_share": bound_s / ours["step_s"],
        "peer_rates": peers,
        "ratio": ours["rate"] / best if best else None,
    }


@torch.inference_mode()
def _measure_ours(decoder: Decoder, plan: Plan) -> dict[str, Any]:
    """Time steps of full slots whose clips are at evenly spread places, as in a long run."""
    capacity = plan.frames + DELAY_STEPS
    slots = plan.slots or plan_slots(decoder, 2, capacity).slots
    stepper = Stepper(decoder, slots, 2, capacity)
    last = capacity - plan.steps - 5
    known = [1 + round(slot * (last - 1) / max(1, slots - 1)) for slot in range(slots)]
    generator = torch.Generator().manual_seed(0)
    for slot in range(slots):
        sequence = np.full((decoder.spec.codebooks, capacity), GENERATE, np.int32)
        sequence[:, : known[slot]] = slot % decoder.spec.codebook_size
        text = torch.randn(TEXT_STATES, decoder.spec.hidden, generator=generator)
        conditions = Conditions((Branch(cross=text), Branch()), 3.0)
        window = Window(0, 0, plan.frames, sequence, known[slot])
        stepper.place(slot, window, conditions, Request(prompt="", seed=slot, top_k=250))
    stepper.step(3)  # warmed up, captured
    begin_s = _time(lambda: stepper.step(plan.steps), decoder.device)
    step_s = begin_s / plan.steps
    return {
        "slots": slots,
        "positions": sum(known) / slots + plan.steps / 2,
        "step_s": step_s,
        "rate": slots / FRAME_RATE / step_s,
        "path": decoder.ops.name + ("-graphs" if stepper.captures_steps else ""),
    }


@torch.inference_mode()
def _measure_peer(model: Any, batch: int, device: torch.device, plan: Plan) -> float | None:
    """The rate of transformers' `generate` with guidance, None if the batch does not fit."""
    ids = torch.ones(batch, TEXT_STATES, dtype=torch.long, device=device)

    def generate() -> None:
        model.generate(
            input_ids=ids, attention_mask=ids, do_sample=True, top_k=250, guidance_scale=3.0,
            max_new_tokens=plan.peer_frames + 3,
        )  # fmt: skip

    try:
        generate()
        return batch * plan.peer_frames / FRAME_RATE / _time(generate, device)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        return None


def _time(work: Any, device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    begin = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - begin
