"""Plans how many slots fit into free memory before anything is allocated."""

from dataclasses import dataclass
from pathlib import Path

import torch

from musicgen.engine.prefill import PREFILL_TOKENS, SPAN_POSITIONS
from musicgen.engine.stepper import TEXT_CAPACITY, Stepper
from musicgen.model.decoder.decoder import Decoder
from musicgen.model.decoder.triton_ops import TritonOps
from musicgen.model.memory_errors import is_out_of_memory
from musicgen.model.processor import usable_cpus

# The share of the free memory that slots may take. The rest is for the codec, prompts, writers, and other programs.
_FREE_MEMORY_SHARE = {"cuda": 0.85, "cpu": 0.5}
# More slots than this gain nothing: the products have reached their best rate. A static shape pays for idle slots too.
_MAX_SLOTS = {"cuda": 128, "cpu": 32, "cpu-static": 8}
_RESIDENT_STEP_FACTOR = (
    2.5  # allocators keep freed pieces: so much of what a step needs stays resident, measured on CPUs
)
_GRAPH_POOL_FACTOR = 1  # graphs have a memory pool of their own, in which the step's tensors stay
_SAMPLING_BYTES_PER_LOGIT = 40  # while torch samples a clip: random words of int64, numbers of float64


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
    # Tokens of a prefill at a time.
    together = width * min(capacity, SPAN_POSITIONS) if isinstance(ops, TritonOps) else PREFILL_TOKENS
    embedding = together * spec.hidden * (spec.codebooks * decoder.dtype.itemsize + 2 * 4)  # by codebook
    placing = together * spec.hidden * 2 * 4 + ops.work_bytes(together, spec.heads, spec.hidden, spec.ffn)
    stepping = ops.work_bytes(rows, spec.heads, spec.hidden, spec.ffn)
    sampling = _SAMPLING_BYTES_PER_LOGIT if ops.sampling_kernel is None else 0
    bytes_per_logit = 4 * rows / slots + sampling
    drawing = 3 * 4 * rows * spec.hidden + round(slots * spec.codebooks * spec.codebook_size * bytes_per_logit)
    return max(embedding, placing, stepping, drawing)


def engine_bytes(decoder: Decoder, slots: int, width: int, capacity: int) -> int:
    """The most bytes that an engine with these slots takes, besides weights and codec."""
    factor = _RESIDENT_STEP_FACTOR + (_GRAPH_POOL_FACTOR if decoder.ops.captures_graphs else 0)
    shared = decoder.cache_bytes(1, capacity, 0, 0) if decoder.spec.kind != "text" else 0  # of null prefixes
    placed = slot_bytes(decoder, slots, width, capacity) + shared
    return placed + round(factor * step_bytes(decoder, slots, width, capacity))


def plan_slots(decoder: Decoder, width: int, capacity: int, free: int | None = None) -> MemoryPlan:
    """Plan as many slots as fit into `free` bytes (None: this engine's share), at least one, at most as many as gain
    anything.

    On a CPU an engine's share of the free memory is its share of the cores, because other engines may start beside it.
    """
    device = decoder.device
    if free is None:
        share = min(1.0, decoder.ops.threads / usable_cpus()) if device.type == "cpu" else 1.0
        free = round(free_bytes(device) * share)
    kind = "cpu-static" if device.type == "cpu" and decoder.ops.static_shapes else device.type
    budget = free * _FREE_MEMORY_SHARE[device.type]
    for slots in range(_MAX_SLOTS[kind], 0, -1):
        nbytes = engine_bytes(decoder, slots, width, capacity)
        if nbytes <= budget or slots == 1:
            return MemoryPlan(slots, capacity, nbytes, free)
    raise AssertionError("one slot is always planned")


def allocate_slots(decoder: Decoder, slots: int, width: int, capacity: int) -> Stepper:
    """Allocate slots. Raises `MemoryError` if they do not fit, and says how many would."""
    try:
        return Stepper(decoder, slots, width, capacity)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
    needed, fitting = engine_bytes(decoder, slots, width, capacity), plan_slots(decoder, width, capacity)
    raise MemoryError(
        f"{slots} slots take {needed / 1e9:.1f} GB, and {fitting.free / 1e9:.1f} GB are free; {fitting.slots} would fit"
    )


def free_bytes(device: torch.device) -> int:
    """Measure the free bytes of a device.

    They are those of the GPU, within the fraction of it that this process may allocate
    (`torch.cuda.set_per_process_memory_fraction`), or those of the machine within this process's control group.
    """
    if device.type == "cuda":
        torch.cuda.empty_cache()  # what torch keeps of freed memory is free for slots
        free, total = torch.cuda.mem_get_info(device)
        allowed = round(torch.cuda.get_per_process_memory_fraction(device.index) * total)
        return max(0, min(free, allowed - torch.cuda.memory_reserved(device)))
    import psutil  # which CUDA does without

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
