"""Plans how many slots fit into free memory before anything is allocated, and tells errors for lack of memory."""

import os
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch

from musicgen.engine.stepper import PREFILL_TOKENS, TEXT_CAPACITY
from musicgen.model.decoder.decoder import Decoder

# The share of the free memory that slots may take. The rest is for the codec, prompts, writers, and other programs.
_FREE_MEMORY_SHARE = {"cuda": 0.85, "cpu": 0.5}
# More slots than this gain nothing: the products have reached their best rate. A static shape pays for idle slots too.
_MAX_SLOTS = {"cuda": 128, "cpu": 32, "cpu-static": 8}
_RESIDENT_STEP_FACTOR = (
    2.5  # allocators keep freed pieces: so much of what a step needs stays resident, measured on CPUs
)
_GRAPH_POOL_FACTOR = 1  # graphs have a memory pool of their own, in which the step's tensors stay
_SAMPLING_BYTES_PER_LOGIT = 40  # while torch samples a clip: random words of int64, numbers of float64
_OUT_OF_MEMORY_MESSAGES = (
    "not enough memory",
    "can't allocate memory",
    "CUDA error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
)


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """`slots` slots of `capacity` positions take `nbytes`, out of `free`."""

    slots: int
    capacity: int
    nbytes: int
    free: int


def slot_bytes(decoder: Decoder, slots: int, width: int, capacity: int) -> int:
    """The bytes that `Stepper(decoder, slots, width, capacity)` allocates and keeps."""
    spec = decoder.spec
    cache = decoder.cache_bytes(slots * width, capacity, slots, TEXT_CAPACITY)
    return cache + slots * (spec.codebooks * (capacity + 1) * 8 + 8) + slots * 4  # sequences, positions, text lengths


def step_bytes(decoder: Decoder, slots: int, width: int, capacity: int) -> int:
    """The bytes that placing a window or running a step allocates for a moment: the maximum over parts that never
    coexist.
    """
    spec, ops, rows = decoder.spec, decoder.ops, slots * width
    embedding = (
        capacity * spec.hidden * (spec.codebooks * decoder.dtype.itemsize + 2 * 4)
    )  # a whole context, by codebook
    placing = capacity * spec.hidden * 2 * 4 + ops.work_bytes(PREFILL_TOKENS, spec.heads, spec.hidden, spec.ffn)
    stepping = ops.work_bytes(rows, spec.heads, spec.hidden, spec.ffn)
    sampling = _SAMPLING_BYTES_PER_LOGIT if ops.sampling_kernel is None else 0
    bytes_per_logit = 4 * rows / slots + sampling
    drawing = 3 * 4 * rows * spec.hidden + round(slots * spec.codebooks * spec.codebook_size * bytes_per_logit)
    return max(embedding, placing, stepping, drawing)


def engine_bytes(decoder: Decoder, slots: int, width: int, capacity: int) -> int:
    """The most bytes that an engine with these slots takes, besides weights and codec."""
    factor = _RESIDENT_STEP_FACTOR + (_GRAPH_POOL_FACTOR if decoder.ops.captures_graphs else 0)
    return slot_bytes(decoder, slots, width, capacity) + round(factor * step_bytes(decoder, slots, width, capacity))


def plan_slots(decoder: Decoder, width: int, capacity: int, free: int | None = None) -> MemoryPlan:
    """Plan as many slots as fit into `free` bytes (None: this engine's share), at least one, at most as many as gain
    anything.

    On a CPU an engine's share of the free memory is its share of the cores, because other engines may start beside it.
    """
    device = decoder.device
    if free is None:
        share = min(1.0, decoder.ops.threads / (os.cpu_count() or 1)) if device.type == "cpu" else 1.0
        free = round(free_bytes(device) * share)
    kind = "cpu-static" if device.type == "cpu" and decoder.ops.static_shapes else device.type
    budget = free * _FREE_MEMORY_SHARE[device.type]
    for slots in range(_MAX_SLOTS[kind], 0, -1):
        nbytes = engine_bytes(decoder, slots, width, capacity)
        if nbytes <= budget or slots == 1:
            return MemoryPlan(slots, capacity, nbytes, free)
    raise AssertionError("one slot is always planned")


def free_bytes(device: torch.device) -> int:
    """Measure the free bytes of a device: of the GPU, or of the machine within this process's control group."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return min([psutil.virtual_memory().available, *_control_group_free_bytes()])


def _control_group_free_bytes() -> list[int]:
    """The free bytes that the control group (a container's limit) leaves, droppable file cache included; empty without
    one.
    """
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


def is_out_of_memory(error: Exception) -> bool:
    """Whether an error says that memory ran out: CUDA says it by type, the CPU's allocator in its message."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(message in str(error) for message in _OUT_OF_MEMORY_MESSAGES)
