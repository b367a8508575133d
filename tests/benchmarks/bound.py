"""The least time of a decode step on this machine: the sum over its operations of each one's own bound.

A product cannot be faster than its arithmetic at the machine's best rate, nor than reading its weights; attention not
faster than reading the live part of the cache. On a CPU the operations come one after the other, so the bounds add up.
What a step need not do is not in it: null rows have no cross-attention, and only live positions are read.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from tests.benchmarks.machine import Machine


@dataclass(frozen=True)
class StepShape:
    """One decode step: `clips` clips with guidance (two rows each, one of them with text) at a position."""

    clips: int
    position: int  # positions in the cache that are read, this step's own among them
    text_tokens: float  # mean over the clips
    layers: int
    hidden: int
    ffn: int
    codebooks: int
    codebook_size: int
    weight_bytes: int = 4
    cache_bytes: int = 4

    @property
    def rows(self) -> int:
        """Decoder rows: two per clip."""
        return 2 * self.clips


@dataclass(frozen=True)
class Operation:
    """What one kind of operation has to do in a step, all layers together."""

    name: str
    flops: float
    read_bytes: float
    calls: int = 1

    def bound_s(self, machine: Machine) -> float:
        """Its least time."""
        return machine.seconds(self.flops, self.read_bytes)


def operations(s: StepShape) -> list[Operation]:
    """The operations of a step in their order, named as the engine's profile names them."""

    def product(name: str, rows: int, depth: int, columns: int, calls: int) -> Operation:
        return Operation(name, 2.0 * rows * depth * columns * calls, float(depth * columns * s.weight_bytes * calls), calls)

    def attention(name: str, rows: int, positions: float) -> Operation:
        moved = 2.0 * rows * s.hidden * positions * s.layers
        return Operation(name, 2 * moved, moved * s.cache_bytes, s.layers)

    d, layers = s.hidden, s.layers
    return [
        Operation("embed", 0.0, 4.0 * s.rows * s.codebooks * d),
        Operation("norm", 0.0, 4.0 * (3 * layers + 1) * 2 * d, 3 * layers + 1),
        product("qkv", s.rows, d, 3 * d, layers),
        attention("self_attention", s.rows, s.position),
        product("self_out", s.rows, d, d, layers),
        product("cross_query", s.clips, d, d, layers),
        attention("cross_attention", s.clips, s.text_tokens),
        product("cross_out", s.clips, d, d, layers),
        product("ffn_up", s.rows, d, s.ffn, layers),
        product("ffn_down", s.rows, s.ffn, d, layers),
        product("heads", s.rows, d, s.codebooks * s.codebook_size, 1),
        Operation("sample", 0.0, 4.0 * s.rows * s.codebooks * s.codebook_size),
    ]


def step_s(machine: Machine, shape: StepShape) -> float:
    """The bound of one step in seconds."""
    return sum(operation.bound_s(machine) for operation in operations(shape))


def run_s(machine: Machine, shapes: Iterable[StepShape]) -> float:
    """The bound of a run of steps in seconds."""
    return sum(step_s(machine, shape) for shape in shapes)
