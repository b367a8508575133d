"""What this machine can do at best, measured in the run: arithmetic of matrix products, and reading memory.

The bound of a decode step rests on these two numbers, so each is the best of every implementation at hand, our own
kernels among them: a bound from a slow library would flatter us.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

READ_BYTES = 512 << 20  # far beyond any cache


@dataclass(frozen=True)
class Machine:
    """Rates in GFLOP/s and GB/s. `gemm` has the best rate per rows x depth x columns and who reached it."""

    gflops: float
    gbps: float
    dtype: str
    threads: int
    processor: str
    gemm: dict[str, Any] = field(default_factory=dict)
    read: dict[str, Any] = field(default_factory=dict)

    def seconds(self, flops: float, read_bytes: float) -> float:
        """The least time for one operation: arithmetic or reading, whichever takes longer."""
        return max(flops / (self.gflops * 1e9), read_bytes / (self.gbps * 1e9))

    def to_json(self) -> dict[str, Any]:
        """All of it, as JSON-ready values."""
        return asdict(self)


def measure(
    rows: tuple[int, ...], hidden: int, heads_out: int, dtype: str = "float32", seconds_each: float = 0.15
) -> Machine:
    """Measure with all of torch's threads. `rows` are the decoder rows of the cases, `hidden` the model's width,
    `heads_out` the columns of the codebook heads."""
    import torch

    shapes = [(r, depth, columns) for r in rows for depth, columns in _products(hidden, heads_out)]
    gemm: dict[str, Any] = {}
    for shape in shapes:
        rates = {  # in float32 too: a processor without products of bfloat16 is faster so
            name if kind == dtype else f"{name}, {kind}": _gemm_gflops(build, shape, getattr(torch, kind), seconds_each)
            for kind in {dtype: 0, "float32": 0}
            for name, build in _implementations(kind).items()
        }
        best = max(rates, key=rates.__getitem__)
        gemm["x".join(map(str, shape))] = {
            "gflops": round(rates[best], 1),
            "by": best,
            **{k: round(v, 1) for k, v in rates.items()},
        }
    read = {name: round(_rate(work, READ_BYTES, 5 * seconds_each) / 1e9, 2) for name, work in _readers()}
    return Machine(
        gflops=max(entry["gflops"] for entry in gemm.values()),
        gbps=max(read.values()),
        dtype=dtype,
        threads=torch.get_num_threads(),
        processor=_processor(),
        gemm=gemm,
        read=read,
    )


def _products(hidden: int, heads_out: int) -> list[tuple[int, int]]:
    """Depth and columns of the step's products: fused QKV, output and query projections, feed-forward, heads."""
    return [(hidden, 3 * hidden), (hidden, hidden), (hidden, 4 * hidden), (4 * hidden, hidden), (hidden, heads_out)]


def _rate(work: Callable[[], object], amount: float, seconds: float) -> float:
    """Amount per second of the fastest call within so many seconds (at least three calls, after one to warm up)."""
    work()
    best, calls, begin = float("inf"), 0, time.perf_counter()
    while calls < 3 or time.perf_counter() - begin < seconds:
        start = time.perf_counter()
        work()
        best, calls = min(best, time.perf_counter() - start), calls + 1
    return amount / best


def _gemm_gflops(
    build: "Callable[[Tensor, Tensor], Callable[[], object]]", shape: tuple[int, int, int], dtype: Any, seconds: float
) -> float:
    import torch

    rows, depth, columns = shape
    try:
        work = build(torch.randn(rows, depth, dtype=dtype), torch.randn(columns, depth, dtype=dtype))
        return _rate(work, 2.0 * rows * depth * columns, seconds) / 1e9
    except (RuntimeError, AttributeError, NotImplementedError):  # not in this build of torch
        return 0.0


def _implementations(dtype: str) -> "dict[str, Callable[[Tensor, Tensor], Callable[[], object]]]":
    """Ways to multiply x [rows, depth] with weight [columns, depth]^T; each prepares once and returns the work."""
    import torch

    def linear(x: "Tensor", w: "Tensor") -> Callable[[], object]:
        return lambda: torch.nn.functional.linear(x, w)

    def transposed(x: "Tensor", w: "Tensor") -> Callable[[], object]:
        wt = w.t().contiguous()
        return lambda: torch.mm(x, wt)

    def prepacked(x: "Tensor", w: "Tensor") -> Callable[[], object]:
        packed = torch.ops.mkldnn._reorder_linear_weight(w, x.shape[0])
        return lambda: torch.ops.mkldnn._linear_pointwise(x, packed, None, "none", [], "")

    def mkl(x: "Tensor", w: "Tensor") -> Callable[[], object]:
        packed = torch.ops.mkl._mkl_reorder_linear_weight(w.to_mkldnn(), x.shape[0])
        return lambda: torch.ops.mkl._mkl_linear(x, packed, w, None, x.shape[0])

    def by_numpy(x: "Tensor", w: "Tensor") -> Callable[[], object]:
        a, b = x.numpy(), w.numpy().T
        return lambda: a @ b

    found: dict[str, Any] = {"torch linear": linear, "torch mm": transposed, "onednn prepacked": prepacked}
    if dtype == "float32":
        found |= {"mkl prepacked": mkl, "numpy": by_numpy}
    own = _own_kernels(dtype)
    if own is not None:

        def ours(x: "Tensor", w: "Tensor") -> Callable[[], object]:
            packed, wide = own.pack(w), x.float().contiguous()
            return lambda: own.linear(wide, packed)

        found["our kernels"] = ours
    return found


def _own_kernels(dtype: str) -> Any:
    """Our compiled kernels, or None where there is no compiler."""
    import torch

    from musicgen.model.decoder.cpu_ops import CpuOps, load_library

    library = load_library()
    return None if isinstance(library, str) else CpuOps(library, getattr(torch, dtype), torch.get_num_threads())


def _readers() -> Iterator[tuple[str, Callable[[], object]]]:
    import torch

    x = torch.ones(READ_BYTES // 4)
    square, short = x.view(-1, 4096), torch.ones(4096)
    yield "sum", x.sum
    yield "dot", lambda: torch.dot(x, x)  # one array, read once: both operands are the same lines
    yield "matrix x vector", lambda: torch.mv(square, short)
    yield "max", x.max
    own = _own_kernels("float32")
    if own is not None:  # in several streams
        heads, dim, positions = 16, 64, 512
        rows = READ_BYTES // (2 * 4 * heads * dim * positions)
        cache = own.allocate_cache(rows, heads, positions, dim)
        query, order = torch.ones(rows, heads * dim), torch.arange(rows, dtype=torch.int32)
        lengths = torch.full((rows,), positions, dtype=torch.int32)
        yield "our attention", lambda: own.attend(query, order, lengths, cache, positions)


def _processor() -> str:
    from musicgen.model.processor import processor_flags, processor_name

    name = processor_name()
    if name is None:
        return "unknown"
    flags = [flag for flag in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if flag in processor_flags()]
    return f"{name} ({' '.join(flags)})"
