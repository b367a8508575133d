"""The least time of a decode step on this machine: the sum over its operations of each one's own bound.

A product cannot be faster than its arithmetic at the machine's best rate, nor than reading its weights; attention not
faster than reading the live part of the cache. On a CPU the operations come one after the other, so the bounds add up.
What a step need not do is not in it: null rows have no cross-attention, and only live positions are read.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from tests.benchmarks.machine import Machine


@dataclass(frozen=True)
class ModelShape:
    """What of a model decides the work of a step."""

    layers: int
    hidden: int
    ffn: int
    codebooks: int
    codebook_size: int
    weight_bytes: int = 4
    cache_bytes: int = 4


@dataclass(frozen=True)
class StepWork:
    """One decode step: how many rows run, and how much they attend to."""

    rows: int  # with guidance two per clip
    crossed: int  # of them, rows with text
    positions: int  # live positions, summed over the rows, the step's own among them
    text: int  # text states, summed over the crossed rows


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


def operations(s: ModelShape, work: StepWork) -> list[Operation]:
    """The operations of a step in their order, named as the engine's profile names them."""

    def product(name: str, rows: int, depth: int, columns: int, calls: int) -> Operation:
        return Operation(
            name, 2.0 * rows * depth * columns * calls, float(depth * columns * s.weight_bytes * calls), calls
        )

    def attention(name: str, positions: int) -> Operation:
        moved = 2.0 * s.hidden * positions * s.layers
        return Operation(name, 2 * moved, moved * s.cache_bytes, s.layers)

    d, layers = s.hidden, s.layers
    return [
        Operation("embed", 0.0, 4.0 * work.rows * s.codebooks * d),
        Operation("norm", 0.0, 4.0 * (3 * layers + 1) * 2 * d, 3 * layers + 1),
        product("qkv", work.rows, d, 3 * d, layers),
        attention("self_attention", work.positions),
        product("self_out", work.rows, d, d, layers),
        product("cross_query", work.crossed, d, d, layers),
        attention("cross_attention", work.text),
        product("cross_out", work.crossed, d, d, layers),
        product("ffn_up", work.rows, d, s.ffn, layers),
        product("ffn_down", work.rows, s.ffn, d, layers),
        product("heads", work.rows, d, s.codebooks * s.codebook_size, 1),
        Operation("sample", 0.0, 4.0 * work.rows * s.codebooks * s.codebook_size),
    ]


def step_s(machine: Machine, shape: ModelShape, work: StepWork) -> float:
    """The bound of one step in seconds."""
    return sum(operation.bound_s(machine) for operation in operations(shape, work))


def run_s(machine: Machine, shape: ModelShape, steps: Iterable[StepWork]) -> float:
    """The bound of a run of steps in seconds."""
    return sum(step_s(machine, shape, work) for work in steps)


def table(
    machine: Machine, shape: ModelShape, steps: Sequence[StepWork], spent_s: Mapping[str, float]
) -> list[dict[str, object]]:
    """Per operation, means over the steps: bound, actual (of `spent_s`, seconds of all steps), share; then the rest and
    the sum.
    """
    bounds: dict[str, float] = {}
    for work in steps:
        for operation in operations(shape, work):
            bounds[operation.name] = bounds.get(operation.name, 0.0) + operation.bound_s(machine)
    names = [*bounds, *(name for name in spent_s if name not in bounds)]
    rows = [(name, bounds.get(name, 0.0), spent_s.get(name, 0.0)) for name in names]
    rows.append(("step", sum(bounds.values()), sum(spent_s.values())))
    return [
        {
            "operation": name,
            "bound_ms": round(1000 * bound / len(steps), 3),
            "actual_ms": round(1000 * spent / len(steps), 3),
            "share": round(bound / spent, 3) if spent else None,
        }
        for name, bound, spent in rows
    ]
