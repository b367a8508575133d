"""The decoder's operations by the CPU kernels of `kernels/` (`kernel_library`)."""

import copy
import ctypes
import logging
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from musicgen.model.decoder.cuda_graphs import GraphCapture
from musicgen.model.decoder.huge_pages import zeros_in_huge_pages
from musicgen.model.decoder.kernel_library import load_unchecked_kernels
from musicgen.model.decoder.ops import LayerCache, PackedWeight, RowSpan, SamplingKernel

log = logging.getLogger(__name__)

_NAMES = {torch.float32: "fp32", torch.bfloat16: "bf16"}

# Names the arithmetic in the index column `engine`. Raise it with every change of the kernels that may change bits.
# 2: right with two threads and more (docs/changelog.md); names without a revision are from before.
# 3: the same whatever compiler and processor it was tuned for.
KERNEL_REVISION = 3


@lru_cache(maxsize=1)
def load_library() -> "ctypes.CDLL | str":
    """Load the compiled kernels and check them, or say in a few words why there are none that can be used."""
    library = load_unchecked_kernels()
    if isinstance(library, str):
        return library
    wrong = _find_wrong_kernel(library)
    if wrong:
        log.warning(
            "the CPU kernels compute %s wrongly on this processor, falling back to slower eager operations", wrong
        )
        return f"{wrong} failed its check"
    return library


def _find_wrong_kernel(library: ctypes.CDLL) -> str | None:
    """Compare the kernels with torch on a small case; the name of the first that differs, or None.

    Compiled for an instruction set that was never tested, a kernel may compute something wrong.
    """
    generator = torch.Generator().manual_seed(0)
    tokens, heads, dim, depth, columns = 15, 6, 6, 36, 70  # heads are read by fours, few rows by two panels
    x, weight = (torch.randn(n, depth, generator=generator) for n in (tokens, columns))
    rows, lengths = torch.zeros(tokens, dtype=torch.int32), torch.arange(1, tokens + 1, dtype=torch.int32)
    for dtype, tolerance in ((torch.float32, 1e-4), (torch.bfloat16, 0.3)):
        ops = CpuOps(library, dtype, 2)
        product, packed = torch.nn.functional.gelu(x) @ weight.T, ops.pack(weight)
        for some in (tokens, 2):
            if not torch.allclose(ops.linear(x[:some], packed, activate=True), product[:some], atol=tolerance):
                return f"{dtype} products"
        cache = ops.allocate_cache(1, heads, tokens, dim)
        ops.append(x, x, rows, lengths, cache)
        split = x.view(tokens, heads, dim).transpose(0, 1)
        expected = (
            torch.nn.functional.scaled_dot_product_attention(split, split, split, is_causal=True)
            .transpose(0, 1)
            .flatten(1)
        )
        if not torch.allclose(ops.attend(x, rows, lengths, cache, tokens), expected, atol=tolerance):
            return f"{dtype} attention"
    return None


class CpuOps:
    """`DecoderOps` by compiled CPU kernels. Tensors are float32 and contiguous; weights and cache are in `dtype`."""

    static_shapes = False  # a row's bits do not depend on how many rows run, so only live rows are run
    captures_graphs = False

    def __init__(self, library: ctypes.CDLL, dtype: torch.dtype, threads: int):
        self.library = library
        self.dtype = dtype
        self.threads = threads
        self.lanes: int = library.lanes()
        self._tile_rows: int = library.tile_rows()
        self.name = f"{library.build_name().decode()}-{library.instruction_set().decode()}-r{KERNEL_REVISION}"
        kind = _NAMES[dtype]
        self._pack, self._linear = getattr(library, f"pack_{kind}"), getattr(library, f"linear_{kind}")
        self._append, self._attention = getattr(library, f"append_{kind}"), getattr(library, f"attention_{kind}")
        self._append_and_attend = getattr(library, f"append_and_attend_{kind}")

    def new_graph_capture(self) -> GraphCapture | None:
        """None: there are no graphs on a CPU."""
        return None

    def with_threads(self, threads: int) -> "CpuOps":
        """The same operations on another number of threads."""
        other = copy.copy(self)
        other.threads = threads
        return other

    @property
    def sampling_kernel(self) -> SamplingKernel | None:
        """The kernel that samples codes."""
        return self.sample

    def pack(self, weight: Tensor) -> PackedWeight:
        """Lay out a weight [columns, depth] for `linear`: in panels of columns, zeros up to whole panels."""
        columns, depth = weight.shape
        if depth % 2:
            raise ValueError(f"a weight of odd depth {depth} cannot be packed in pairs")
        panel = 2 * self.lanes
        packed = zeros_in_huge_pages(-(-columns // panel) * panel * depth, dtype=self.dtype)
        plain = weight.float().contiguous()  # named: a temporary would be freed before the call
        self._pack(plain.data_ptr(), columns, depth, packed.data_ptr(), self.threads)
        return PackedWeight(packed, columns, depth)

    def linear(self, x: Tensor, weight: PackedWeight, activate: bool = False) -> Tensor:
        """Multiply x [rows, depth] (first through the GELU if `activate`) with weight^T -> [rows, columns]."""
        rows, depth = x.shape
        y = torch.empty(rows, weight.columns)
        scratch = torch.empty((rows + self._tile_rows) * depth)
        self._linear(
            x.data_ptr(), depth, rows, depth, weight.data.data_ptr(), weight.columns, y.data_ptr(),
            scratch.data_ptr(), activate,
            self.threads,
        )  # fmt: skip
        return y

    def norm(self, x: Tensor, delta: Tensor | None, weight: Tensor, bias: Tensor) -> Tensor:
        """Add delta to the first rows of x [rows, hidden] in place, and return the layer norm of x."""
        y = torch.empty_like(x)
        change, added = (0, 0) if delta is None else (delta.data_ptr(), delta.shape[0])
        self.library.norm_fp32(
            x.data_ptr(), change, added, weight.data_ptr(), bias.data_ptr(), *x.shape, y.data_ptr(), self.threads,
        )  # fmt: skip
        return y

    def allocate_cache(self, rows: int, heads: int, capacity: int, dim: int, device: str | None = None) -> LayerCache:
        """Allocate keys and values of one layer, zeros.

        Whatever their shape says, keys lie in memory as [rows, heads, capacity / lanes, dim, lanes]; `dim` of the
        values is padded.
        """
        padded = -(-dim // self.lanes) * self.lanes
        capacity = self.round_capacity(capacity)
        return (
            zeros_in_huge_pages(rows, heads, capacity, dim, dtype=self.dtype, device=device or "cpu"),
            zeros_in_huge_pages(rows, heads, capacity, padded, dtype=self.dtype, device=device or "cpu"),
        )

    def round_capacity(self, capacity: int) -> int:
        """The positions that are allocated where `capacity` are needed."""
        return -(-capacity // self.lanes) * self.lanes

    def work_bytes(self, tokens: int, heads: int, hidden: int, ffn: int) -> int:
        """The most bytes that one layer holds besides the cache: its states, and the feed-forward states with their
        packed copy.
        """
        return 4 * (tokens * (9 * hidden + ffn) + (tokens + self._tile_rows) * ffn)

    def append(self, k: Tensor, v: Tensor, rows: Tensor, lengths: Tensor, cache: LayerCache) -> None:
        """Write token i's key and value (views [tokens, hidden] of one matrix) to position lengths[i] - 1 of row
        rows[i].
        """
        keys, values = cache
        _, heads, capacity, dim = keys.shape
        self._append(
            k.data_ptr(), v.data_ptr(), k.stride(0), k.shape[0], rows.data_ptr(), lengths.data_ptr(), keys.data_ptr(),
            values.data_ptr(),
            heads, dim, capacity, self.threads,
        )  # fmt: skip

    def append_and_attend(
        self, qkv: Tensor, rows: Tensor, lengths: Tensor, cache: LayerCache, longest: int, span: RowSpan | None = None
    ) -> Tensor:
        """Append the keys and values of qkv [tokens, 3 hidden], and attend with its queries -> [tokens, hidden]."""
        keys, values = cache
        _, heads, capacity, dim = keys.shape
        q, k, v = qkv.chunk(3, dim=1)
        out = torch.empty(qkv.shape[0], heads * dim)
        self._append_and_attend(
            q.data_ptr(), k.data_ptr(), v.data_ptr(), qkv.stride(0), qkv.shape[0], rows.data_ptr(), lengths.data_ptr(),
            keys.data_ptr(), values.data_ptr(),
            heads, dim, capacity, out.data_ptr(), self.threads,
        )  # fmt: skip
        return out

    def attend(self, q: Tensor, rows: Tensor, lengths: Tensor, cache: LayerCache, longest: int) -> Tensor:
        """Attend with token i's query [tokens, hidden] to the first lengths[i] positions of row rows[i] -> [tokens,
        hidden].
        """
        keys, values = cache
        _, heads, capacity, dim = keys.shape
        out = torch.empty(q.shape[0], heads * dim)
        self._attention(
            q.data_ptr(), q.stride(0), q.shape[0], rows.data_ptr(), lengths.data_ptr(), keys.data_ptr(),
            values.data_ptr(), heads, dim,
            capacity, out.data_ptr(), self.threads,
        )  # fmt: skip
        return out

    def sample(self, logits: Tensor, params: NDArray[np.void], steps: Tensor, codes: Tensor) -> None:
        """Sample the codes int32 [clips, codebooks] that are negative, in place, from logits [rows, codebooks, size].

        `params` is a table of `SAMPLING_PARAMS_DTYPE` (musicgen/engine/sampling.py), one row a clip; steps int32
        [clips].
        """
        self.library.sample_fp32(
            logits.data_ptr(), params.ctypes.data, codes.shape[0], steps.data_ptr(), *logits.shape[1:],
            codes.data_ptr(), self.threads,
        )  # fmt: skip
