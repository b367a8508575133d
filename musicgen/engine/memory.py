"""How many slots fit: planned from free memory before anything is allocated."""

import os
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch

from musicgen.engine.stepper import PREFILL_TOKENS, TEXT_CAPACITY
from musicgen.model.decoder.decoder import Decoder
from musicgen.model.decoder.torch_ops import TorchOps

# The share of what is free that slots may take. The rest is for the codec, prompts, writers, and what else runs.
_FREE_MEMORY_SHARE = {"cuda": 0.85, "cpu": 0.5}
# More slots than this gain nothing: the products have reached their best rate. A static shape pays for idle slots too.
_MAX_SLOTS = {"cuda": 128, "cpu": 32, "cpu-static": 8}
_RESIDENT_STEP_FACTOR = (
    2.5  # allocators keep what is freed in pieces: so much of what a step needs stays resident, measured on CPUs
)
_GRAPH_POOL_FACTOR = 1  # graphs have a pool of their own: the step's tensors stand in it for good
_SAMPLING_BYTES_PER_LOGIT = 40  # bytes for each logit of a clip while torch draws: words of int64, numbers of float64


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """`slots` slots of `capacity` positions take `nbytes`, out of `free`."""

    slots: int
    capacity: int
    nbytes: int
    free: int


def slot_bytes(decoder: Decoder, slots: int, width: int, capacity: int) -> int:
    """What `Stepper(decoder, slots, width, capacity)` allocates and keeps, in bytes."""
    spec = decoder.spec
    kept = decoder.cache_bytes(slots * width, capacity, slots, TEXT_CAPACITY)
    return kept + slots * (spec.codebooks * (capacity + 1) * 8 + 8) + slots * 4  # sequences, positions, text lengths


def step_bytes(decoder: Decoder, slots: int, width: int, capacity: int) -> int:
    """What placing a window or making a step allocates for a moment, in bytes: the largest of what never stands together."""
    spec, ops, rows = decoder.spec, decoder.ops, slots * width
    embedding = (
        capacity * spec.hidden * (spec.codebooks * decoder.dtype.itemsize + 2 * 4)
    )  # a whole context, by codebook
    placing = capacity * spec.hidden * 2 * 4 + ops.work_bytes(PREFILL_TOKENS, spec.heads, spec.hidden, spec.ffn)
    stepping = ops.work_bytes(rows, spec.heads, spec.hidden, spec.ffn)
    clip = 4 * rows / slots + (
        _SAMPLING_BYTES_PER_LOGIT if ops.static_shapes else 0
    )  # bytes for each of a clip's logits
    drawing = 3 * 4 * rows * spec.hidden + round(slots * spec.codebooks * spec.codebook_size * clip)
    return max(embedding, placing, stepping, drawing)


def engine_bytes(decoder: Decoder, slots: int, width: int, capacity: int) -> int:
    """What an engine with these slots takes at most, in bytes, beside weights and codec."""
    ops = decoder.ops
    kept = _RESIDENT_STEP_FACTOR + (_GRAPH_POOL_FACTOR if isinstance(ops, TorchOps) and ops.capture is not None else 0)
    return slot_bytes(decoder, slots, width, capacity) + round(kept * step_bytes(decoder, slots, width, capacity))


def plan_slots(decoder: Decoder, width: int, capacity: int, free: int | None = None) -> MemoryPlan:
    """As many slots as fit into `free` bytes (None: this engine's part), at least one, at most what gains anything.

    On a CPU an engine's part of the free memory is its part of the cores: others may be starting beside it.
    """
    device = decoder.device
    if free is None:
        part = min(1.0, decoder.ops.threads / (os.cpu_count() or 1)) if device.type == "cpu" else 1.0
        free = round(free_bytes(device) * part)
    kind = "cpu-static" if device.type == "cpu" and decoder.ops.static_shapes else device.type
    budget = free * _FREE_MEMORY_SHARE[device.type]
    for slots in range(_MAX_SLOTS[kind], 0, -1):
        nbytes = engine_bytes(decoder, slots, width, capacity)
        if nbytes <= budget or slots == 1:
            return MemoryPlan(slots, capacity, nbytes, free)
    raise AssertionError("one slot is always planned")


def free_bytes(device: torch.device) -> int:
    """Free memory of a device: of the GPU, or of the machine within this process's control group."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return min([psutil.virtual_memory().available, *_control_group_free_bytes()])


def _control_group_free_bytes() -> list[int]:
    """What the control group (a container's limit) leaves, file cache that can be dropped included; empty where there is none."""
    for limit, used, stat in (
        ("memory.max", "memory.current", "memory.stat"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat"),
    ):
        try:
            top = Path("/sys/fs/cgroup", limit).read_text(encoding="ascii").strip()
            if top != "max":
                counts = dict(
                    line.split() for line in Path("/sys/fs/cgroup", stat).read_text(encoding="ascii").splitlines()
                )
                taken = int(Path("/sys/fs/cgroup", used).read_text(encoding="ascii")) - int(
                    counts.get("inactive_file", 0)
                )
                return [max(0, int(top) - taken)]
        except (OSError, ValueError):
            continue
    return []
