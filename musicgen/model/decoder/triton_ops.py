"""The decoder's operations on CUDA: torch's products, and Triton kernels for all that lies between them.

A layer of a step is its products, one attention kernel for the row's own positions and one for the text, and one kernel
before each product. Lengths are read on the device, so one CUDA graph serves all lengths. As with `TorchOps`, the
products keep their shapes: the engine always runs all rows.
"""

import logging
import os
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from musicgen.errors import first_line
from musicgen.model.decoder import triton_launch
from musicgen.model.decoder.build import find_private_folder
from musicgen.model.decoder.cuda_graphs import GraphCapture
from musicgen.model.decoder.ops import LayerCache, PackedWeight, RowSpan
from musicgen.model.decoder.torch_ops import TorchOps

log = logging.getLogger(__name__)

# Names the arithmetic in the index column `engine`. Raise it with every change of the kernels that may change bits.
KERNEL_REVISION = 2  # 1 filled a row's first positions all at once
CAPACITY_MULTIPLE = 16
# Where tokens x heads are fewer, a row's positions are shared between several programs: a GPU has up to 148
# multiprocessors, which hold several programs each.
FEW_PROGRAMS = 512


class TritonOps(TorchOps):
    """`DecoderOps` by Triton and torch. Weights and cache are in `dtype`; sums, norms and softmax in float32.

    On a CPU it computes by Triton's interpreter (TRITON_INTERPRET=1), for tests.
    """

    def __init__(
        self, device: torch.device, dtype: torch.dtype, make_capture: Callable[[], GraphCapture] | None = None
    ):
        super().__init__(device, dtype, f"triton-r{KERNEL_REVISION}", make_capture)
        self._has_float32_products = device.type == "cuda" and hasattr(torch.ops.aten.mm, "dtype")

    def linear(self, x: Tensor, weight: PackedWeight, activate: bool = False) -> Tensor:
        """Multiply x [rows, depth] (first through the GELU if `activate`) with weight^T -> [rows, columns].

        The result is float32 where torch can give it; else it is in the weights' dtype, which all kernels read too.
        """
        if activate:
            x = triton_launch.gelu_cast(x, self.dtype)
        if self.device.type == "cpu":
            return super().linear(x.float(), weight)
        x = x.to(self.dtype)
        if self._has_float32_products and self.dtype != torch.float32:
            return torch.mm(x, weight.data.T, out_dtype=torch.float32)
        return torch.mm(x, weight.data.T)

    def norm(self, x: Tensor, delta: Tensor | None, weight: Tensor, bias: Tensor) -> Tensor:
        """Add delta to the first rows of x [rows, hidden] in place, and return the layer norm of x in `dtype`."""
        return triton_launch.norm_residual(x, delta, weight, bias, self.dtype)

    def round_capacity(self, capacity: int) -> int:
        """The positions that are allocated where `capacity` are needed."""
        return -(-capacity // CAPACITY_MULTIPLE) * CAPACITY_MULTIPLE

    def work_bytes(self, tokens: int, heads: int, hidden: int, ffn: int) -> int:
        """The most bytes that one layer holds besides the cache: its states, and the feed-forward states twice."""
        return tokens * (8 * 4 * hidden + ffn * (4 + self.dtype.itemsize))

    def append_and_attend(
        self, qkv: Tensor, rows: Tensor, lengths: Tensor, cache: LayerCache, longest: int, span: RowSpan | None = None
    ) -> Tensor:
        """Append the keys and values of qkv [tokens, 3 hidden], and attend with its queries -> [tokens, hidden].

        Without a `span` each token has a row of its own.
        """
        if span is not None:
            return self._attend_causally(qkv, cache, span)
        if qkv.shape[0] * cache[0].shape[1] >= FEW_PROGRAMS:
            return triton_launch.append_and_attend(qkv, rows, lengths, *cache)
        parts = triton_launch.append_and_attend_in_parts(qkv, rows, lengths, *cache)
        return triton_launch.combine_parts(parts, lengths, self.dtype)

    def _attend_causally(self, qkv: Tensor, cache: LayerCache, span: RowSpan) -> Tensor:
        """Write the next positions of some rows, and attend from them by torch's attention."""
        heads, dim = cache[0].shape[1], cache[0].shape[3]
        split = qkv.view(span.rows, -1, 3, heads, dim).to(self.dtype).permute(2, 0, 3, 1, 4)
        q, k, v = split.unbind()  # [rows, heads, positions, dim]
        count, end = q.shape[2], span.start + q.shape[2]
        k_cached, v_cached = (store[span.first :: span.stride][: span.rows, :, :end] for store in cache)
        k_cached[:, :, span.start :], v_cached[:, :, span.start :] = k, v
        if span.start:
            visible = torch.ones(count, end, dtype=torch.bool, device=q.device).tril(span.start)
            out = functional.scaled_dot_product_attention(q, k_cached, v_cached, attn_mask=visible)
        else:
            out = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        return out.transpose(1, 2).reshape(-1, heads * dim)

    def attend(self, q: Tensor, rows: Tensor, lengths: Tensor, cache: LayerCache, longest: int) -> Tensor:
        """Attend with token i's query [tokens, hidden] to the first lengths[i] positions of row rows[i] -> [tokens,
        hidden] in `dtype`.
        """
        return triton_launch.attend_stored(q, rows, lengths, *cache)


def find_wrong_kernel(ops: TritonOps, dim: int) -> str | None:
    """Compare the kernels with torch on a small case; the name of the first that differs, or None.

    A build of Triton that does not suit the driver or the GPU may fail, or compute something wrong.
    """
    generator = torch.Generator().manual_seed(0)
    rows, heads, capacity, device = 3, 2, 320, ops.device
    plain = TorchOps(device, ops.dtype, "eager")
    tolerance = 1e-4 if ops.dtype == torch.float32 else 0.05
    qkv, x = (torch.randn(rows, 3 * heads * dim, generator=generator).to(device) for _ in range(2))
    scale, shift = (torch.randn(x.shape[1], generator=generator).to(device) for _ in range(2))
    index = torch.arange(rows, dtype=torch.int32, device=device)
    lengths = torch.tensor([1, 200, capacity], dtype=torch.int32, device=device)
    cache = tuple(torch.randn(rows, heads, capacity, dim, generator=generator).to(device, ops.dtype) for _ in "kv")
    hidden = heads * dim
    expected_cache: LayerCache = (cache[0].clone(), cache[1].clone())
    plain.append(qkv[:, hidden : 2 * hidden], qkv[:, 2 * hidden :], index, lengths, expected_cache)
    attended = plain.attend(qkv[:, :hidden], index, lengths, expected_cache, capacity)
    parts = triton_launch.append_and_attend_in_parts(qkv, index, lengths, cache[0].clone(), cache[1].clone())
    pairs = {
        "attention": (triton_launch.append_and_attend(qkv, index, lengths, cache[0], cache[1]), attended),
        "attention in parts": (triton_launch.combine_parts(parts, lengths, ops.dtype), attended),
        "cross-attention": (ops.attend(qkv[:, :hidden], index, lengths, expected_cache, capacity), attended),
        "norm": (ops.norm(x.clone(), qkv, scale, shift), plain.norm(x.clone(), qkv, scale, shift)),
        "GELU": (triton_launch.gelu_cast(x, ops.dtype), torch.nn.functional.gelu(x)),
    }
    for name, (result, expected) in pairs.items():
        if not torch.allclose(result.float(), expected.float(), atol=tolerance, rtol=tolerance):
            return name
    return None


def _choose_cache_folder() -> None:
    """Have Triton keep what it compiles beside the CPU kernels, unless `TRITON_CACHE_DIR` is set: without a home it
    would fail.
    """
    folder = find_private_folder()
    if folder is not None:
        os.environ.setdefault("TRITON_CACHE_DIR", str(folder / "triton"))


def make_triton_ops(
    device: torch.device, dtype: torch.dtype, head_dim: int, make_capture: Callable[[], GraphCapture] | None
) -> TritonOps | str:
    """Build the operations and check the kernels, or say in a few words why there are none that can be used."""
    _choose_cache_folder()
    try:
        import triton  # noqa: F401
    except ImportError:
        return "no triton"
    ops = TritonOps(device, dtype, make_capture)
    try:
        wrong = find_wrong_kernel(ops, head_dim)
    except Exception as error:  # a driver, a compiler or a GPU that Triton does not know: torch needs none of them
        log.warning("the Triton kernels cannot be used, falling back to slower eager operations: %s", first_line(error))
        return "triton failed"
    if wrong:
        log.warning("the Triton kernels compute %s wrongly, falling back to slower eager operations", wrong)
        return f"{wrong} failed its check"
    return ops
