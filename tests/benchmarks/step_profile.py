"""Where a step's time goes: instruments that are put around a loaded decoder from outside, and taken off again.

`StepRecorder` notes when each step begins and what it has to do; it costs microseconds and is on in every case.
`OperationTimes` times every operation of the step and, inside it, every compiled kernel.
"""

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.benchmarks.bound import StepWork
from tests.benchmarks.workload import Row

_KERNELS = ("_linear", "_append", "_append_and_attend", "_attention")  # attributes of CpuOps that are C functions
ALLOCATION_CLIPS, ALLOCATION_POSITION, ALLOCATIONS = 8, 100, (128, 512, 1504)


@contextmanager
def _put_in_place(values: Mapping[tuple[Any, str], Any]) -> Iterator[None]:
    """Set attributes of instances within the block; what was there, or nothing, comes back."""
    absent = object()
    before = {(owner, name): vars(owner).get(name, absent) for owner, name in values}
    for (owner, name), value in values.items():
        setattr(owner, name, value)
    try:
        yield
    finally:
        for (owner, name), value in before.items():
            if value is absent:
                delattr(owner, name)
            else:
                setattr(owner, name, value)


class StepRecorder:
    """Begin times and work of the decode steps: entries (seconds, rows, crossed, positions, text)."""

    def __init__(self, decoder: Any):
        self.decoder = decoder
        self.steps: list[tuple[float, int, int, int, int]] = []

    @contextmanager
    def recording(self) -> Iterator["StepRecorder"]:
        """Record within the block."""
        forward = self.decoder.forward

        def recorded(x: Any, tokens: Any, cache: Any) -> Any:
            self.steps.append(
                (
                    time.perf_counter(),
                    x.shape[0],
                    tokens.num_with_text,
                    int(tokens.lengths.sum()),
                    int(tokens.text_lengths.sum()),
                )
            )
            return forward(x, tokens, cache)

        with _put_in_place({(self.decoder, "forward"): recorded}):
            yield self

    def durations_ms(self) -> list[float]:
        """From each step's begin to the next one's: everything between belongs to the step. One less than the steps."""
        return [1000 * (after[0] - before[0]) for before, after in zip(self.steps, self.steps[1:], strict=False)]

    def works(self) -> list[StepWork]:
        """What each step had to do."""
        return [StepWork(*step[1:]) for step in self.steps]


class OperationTimes:
    """Seconds by operation (named as in `bound.operations`), and seconds inside kernels."""

    def __init__(self, decoder: Any):
        self.decoder = decoder
        self.spent: dict[str, float] = defaultdict(float)
        self.kernels_s = 0.0
        self._weights = {id(decoder.heads): "heads"}
        for layer in decoder.layers:
            named = {"qkv": layer.qkv, "self_out": layer.out, "ffn_up": layer.up, "ffn_down": layer.down}
            if layer.cross is not None:
                cross = layer.cross
                named |= {"cross_query": cross.q, "cross_out": cross.out, "text_to_cache": cross.kv}
            self._weights |= {id(weight): name for name, weight in named.items()}
        self._texts: set[int] = set()

    @contextmanager
    def recording(self) -> Iterator["OperationTimes"]:
        """Time within the block."""
        decoder, ops = self.decoder, self.decoder.ops
        forward = decoder.forward

        def forward_with_texts(x: Any, tokens: Any, cache: Any) -> Any:
            self._texts = {keys.data_ptr() for keys, _ in cache.text}
            return forward(x, tokens, cache)

        native = hasattr(ops, "library")
        inner = (lambda call: call) if native else self._kernel  # torch's own operations: all of one counts as kernel
        linear = self._timed_by(
            lambda x, weight, *_, **__: self._weights.get(id(weight), "other_linear"), inner(ops.linear)
        )
        instruments: dict[tuple[Any, str], Any] = {
            (decoder, "forward"): forward_with_texts,
            (decoder, "embed"): self._kernel(self._timed("embed", decoder.embed)),
            (decoder, "positions"): self._kernel(self._timed("positions", decoder.positions)),
            (ops, "linear"): linear,
            (ops, "attend"): self._timed_by(self._attention_name, inner(ops.attend)),
        }
        for name in ("norm", "append", "sample"):
            if hasattr(ops, name):
                instruments[ops, name] = self._timed(name, inner(getattr(ops, name)))
        if native:  # in one kernel; torch's own operations do one after the other
            instruments[ops, "append_and_attend"] = self._timed("self_attention", ops.append_and_attend)
            instruments |= {(ops, name): self._kernel(getattr(ops, name)) for name in _KERNELS}
            instruments[ops, "library"] = _Library(ops.library, self._kernel)
        with _put_in_place(instruments):
            yield self

    def _attention_name(self, q: Any, rows: Any, lengths: Any, cache: Any, *_: Any) -> str:
        return "cross_attention" if cache[0].data_ptr() in self._texts else "self_attention"

    def _timed(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        return self._timed_by(lambda *_, **__: name, call)

    def _timed_by(self, name_of: Callable[..., str], call: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any, **kwargs: Any) -> Any:
            begin = time.perf_counter()
            result = call(*args, **kwargs)
            self.spent[name_of(*args, **kwargs)] += time.perf_counter() - begin
            return result

        return timed

    def _kernel(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any, **kwargs: Any) -> Any:
            begin = time.perf_counter()
            result = call(*args, **kwargs)
            self.kernels_s += time.perf_counter() - begin
            return result

        return timed


class _Library:
    """A ctypes library whose functions are timed."""

    def __init__(self, library: Any, timed: Callable[[Callable[..., Any]], Callable[..., Any]]):
        self._library, self._wrap = library, timed

    def __getattr__(self, name: str) -> Any:
        wrapped = self._wrap(getattr(self._library, name))
        setattr(self, name, wrapped)
        return wrapped


def profile(folder: Path, rows: list[Row], dtype: str = "auto") -> dict[str, Any]:
    """Run uniform rows with all instruments on. Seconds by operation over all steps but the last, works, and two more:

    `host_share`: of a step's wall time, what was spent outside kernels (compiled ones and torch's): Python, allocation,
    the engine's bookkeeping, and the instruments themselves, so it is an upper bound.
    `allocations`: ms of one step at one position, by positions allocated.
    """
    from tests.benchmarks.ours import Ours

    with Ours(folder, len(rows), max(row.frames for row in rows), dtype) as ours:
        decoder = ours.model.decoder
        ours.generate([Row(row.prompt, 6, row.seed) for row in rows])
        times = OperationTimes(decoder)
        marks: list[tuple[float, dict[str, float], float]] = []
        with times.recording(), StepRecorder(decoder).recording() as recorder:
            inner = decoder.forward

            def marked(*args: Any) -> Any:
                marks.append((time.perf_counter(), dict(times.spent), times.kernels_s))
                return inner(*args)

            with _put_in_place({(decoder, "forward"): marked}):
                ours.generate(rows)
        fingerprint = ours.engine.fingerprint
    (first, spent, kernels), (last, spent_after, kernels_after) = marks[0], marks[-1]
    wall = last - first
    by_operation = {name: spent_after[name] - spent.get(name, 0.0) for name in spent_after}
    by_operation = {name: seconds for name, seconds in by_operation.items() if seconds > 0}
    by_operation["outside_operations"] = max(0.0, wall - sum(by_operation.values()))
    return {
        "engine": fingerprint,
        "wall_s": wall,
        "spent_s": by_operation,
        "host_share": 1 - (kernels_after - kernels) / wall,
        "works": [vars_of(work) for work in recorder.works()[:-1]],
        "allocations": allocations(decoder),
    }


def vars_of(work: StepWork) -> dict[str, int]:
    """A step's work as JSON."""
    return {"rows": work.rows, "crossed": work.crossed, "positions": work.positions, "text": work.text}


def allocations(
    decoder: Any,
    clips: int = ALLOCATION_CLIPS,
    position: int = ALLOCATION_POSITION,
    sizes: tuple[int, ...] = ALLOCATIONS,
) -> dict[str, Any]:
    """Milliseconds of one decoder step of `clips` clips at a position, for several numbers of allocated positions."""
    import torch

    from musicgen.model.decoder.decoder import TokenBatch

    rows, text = 2 * clips, 48
    tokens = TokenBatch(
        torch.arange(rows, dtype=torch.int32),
        torch.full((rows,), position, dtype=torch.int32),
        clips,
        torch.full((clips,), text, dtype=torch.int32),
        position,
    )
    x = torch.randn(rows, decoder.spec.hidden)
    found = {}
    with torch.inference_mode():
        for size in sizes:
            decoder.reserve_positions(size)
            cache = decoder.allocate_cache(rows, size, clips, text)
            took = []
            for _ in range(6):
                begin = time.perf_counter()
                decoder.logits(decoder.forward(x.clone(), tokens, cache))
                took.append(time.perf_counter() - begin)
            found[str(size)] = round(1000 * min(took), 2)
            del cache
    return {"clips": clips, "position": position, "step_ms": found}
