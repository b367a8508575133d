"""The decoder's operations by torch alone: for CUDA, and for a CPU without a compiler.

Library kernels may sum in another order when a shape changes, so shapes are kept fixed here: the engine always runs all
rows. Attention reads the cache in blocks of fixed size, up to the longest live position. A block beyond a row's own
positions adds exactly nothing to that row, so a row's bits do not depend on the lengths of the other rows.
"""

import copy
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from musicgen.model.decoder.cuda_graphs import GraphCapture
from musicgen.model.decoder.ops import LayerCache, PackedWeight, RowSpan, SamplingKernel

BLOCK_POSITIONS = 128
# MKL may give a row other bits in another place of a small matrix (seen with 6 rows on two threads); in multiples of 16
# it does not.
CPU_ROW_MULTIPLE = 16


class TorchOps:
    """`DecoderOps` by torch. Weights, cache and products are in `dtype`; sums, norms and softmax in float32."""

    static_shapes = True
    sampling_kernel: SamplingKernel | None = None

    def __init__(
        self,
        device: torch.device,
        dtype: torch.dtype,
        name: str,
        make_capture: Callable[[], GraphCapture] | None = None,
    ):
        self.device = device
        self.dtype = dtype
        self.name = name
        self.threads = torch.get_num_threads()
        self._make_capture = make_capture

    @property
    def captures_graphs(self) -> bool:
        """Whether steps can be captured as graphs."""
        return self._make_capture is not None

    def new_graph_capture(self) -> GraphCapture | None:
        """A new recorder of graphs, or None: each operation is launched by itself."""
        return None if self._make_capture is None else self._make_capture()

    def with_threads(self, threads: int) -> "TorchOps":
        """The same operations; torch's number of threads is the process's, so this one is only recorded."""
        other = copy.copy(self)
        other.threads = threads
        return other

    def pack(self, weight: Tensor) -> PackedWeight:
        """Bring a weight [columns, depth] to the device, in the right dtype."""
        columns, depth = weight.shape
        return PackedWeight(weight.to(self.device, self.dtype).contiguous(), columns, depth)

    def linear(self, x: Tensor, weight: PackedWeight, activate: bool = False) -> Tensor:
        """Multiply x [rows, depth] (first through the GELU if `activate`) with weight^T -> float32 [rows, columns]."""
        if activate:
            x = functional.gelu(x)
        rows = x.shape[0]
        if self.device.type == "cpu" and rows % CPU_ROW_MULTIPLE:
            x = functional.pad(x, (0, 0, 0, -rows % CPU_ROW_MULTIPLE))
        return functional.linear(x.to(self.dtype), weight.data).float()[:rows]

    def norm(self, x: Tensor, delta: Tensor | None, weight: Tensor, bias: Tensor) -> Tensor:
        """Add delta to the first rows of x [rows, hidden] in place, and return the layer norm of x."""
        if delta is not None:
            x[: delta.shape[0]] += delta
        return functional.layer_norm(x, x.shape[-1:], weight, bias, 1e-5)

    def allocate_cache(self, rows: int, heads: int, capacity: int, dim: int, device: str | None = None) -> LayerCache:
        """Allocate keys and values of one layer, zeros, [rows, heads, capacity, dim] each."""
        shape, target = (rows, heads, self.round_capacity(capacity), dim), device or self.device
        return torch.zeros(shape, dtype=self.dtype, device=target), torch.zeros(shape, dtype=self.dtype, device=target)

    def round_capacity(self, capacity: int) -> int:
        """The positions that are allocated where `capacity` are needed."""
        return -(-capacity // BLOCK_POSITIONS) * BLOCK_POSITIONS

    def work_bytes(self, tokens: int, heads: int, hidden: int, ffn: int) -> int:
        """The most bytes that one layer holds besides the cache: keys and values of one block per token, or the
        feed-forward states.
        """
        itemsize = self.dtype.itemsize
        gathered = BLOCK_POSITIONS * (
            hidden * (2 * 4 + (itemsize if itemsize < 4 else 0)) + heads * 4 * 4
        )  # float32, one also as it is stored; scores
        return tokens * (8 * 4 * hidden + max(gathered, 4 * hidden + ffn * (2 * 4 + 2 * itemsize)))

    def append(self, k: Tensor, v: Tensor, rows: Tensor, lengths: Tensor, cache: LayerCache) -> None:
        """Write token i's key and value [tokens, hidden] to position lengths[i] - 1 of row rows[i]."""
        for values, store in ((k, cache[0]), (v, cache[1])):
            heads, dim = store.shape[1], store.shape[3]
            store[rows.long(), :, lengths.long() - 1] = values.reshape(-1, heads, dim).to(self.dtype)

    def append_and_attend(
        self, qkv: Tensor, rows: Tensor, lengths: Tensor, cache: LayerCache, longest: int, span: RowSpan | None = None
    ) -> Tensor:
        """Append the keys and values of qkv [tokens, 3 hidden], and attend with its queries -> [tokens, hidden]."""
        hidden = qkv.shape[1] // 3
        self.append(qkv[:, hidden : 2 * hidden], qkv[:, 2 * hidden :], rows, lengths, cache)
        return self.attend(qkv[:, :hidden], rows, lengths, cache, longest)

    def attend(self, q: Tensor, rows: Tensor, lengths: Tensor, cache: LayerCache, longest: int) -> Tensor:
        """Attend with token i's query [tokens, hidden] to the first lengths[i] positions of row rows[i] -> [tokens,
        hidden].

        `longest` is an upper bound of the lengths. A length of 0 gives zeros. The softmax is accumulated block by block
        (Milakov & Gimelshein 2018, "Online normalizer calculation for softmax").
        """
        keys, values = cache
        heads, dim = keys.shape[1], keys.shape[3]
        q = q.reshape(-1, heads, dim, 1).float() * dim**-0.5
        running_max = torch.full((q.shape[0], heads, 1), -torch.inf, device=q.device)
        weight_sum = torch.zeros_like(running_max)
        out = torch.zeros(q.shape[0], heads, dim, device=q.device)
        row_index = rows.long()
        for start in range(0, longest, BLOCK_POSITIONS):
            k = keys[row_index, :, start : start + BLOCK_POSITIONS].float()  # [tokens, heads, BLOCK_POSITIONS, dim]
            v = values[row_index, :, start : start + BLOCK_POSITIONS].float()
            is_live = torch.arange(start, start + k.shape[2], device=q.device) < lengths[:, None]
            scores = (k @ q).squeeze(-1).masked_fill(~is_live[:, None], -torch.inf)
            new_max = torch.maximum(running_max, scores.amax(-1, keepdim=True))
            finite_max = new_max.masked_fill(new_max == -torch.inf, 0.0)
            p, rescale = torch.exp(scores - finite_max), torch.exp(running_max - finite_max)
            weight_sum = weight_sum * rescale + p.sum(-1, keepdim=True)
            out = out * rescale + (p[..., None, :] @ v).squeeze(-2)
            running_max = new_max
            del k, v  # before the next block is gathered, so that only one block is held
        return (out / weight_sum.clamp_min(1e-30)).reshape(-1, heads * dim)
