"""The decoder's operations by torch alone: for CUDA, and for a CPU without a compiler.

Library kernels may sum in another order when a shape changes, so here shapes are what is fixed: the engine always runs
all rows. Attention goes over the cache in blocks of fixed size, up to the longest live position; a block that lies
beyond a row's own positions adds exactly nothing to it, so a row's bits do not depend on its neighbours' lengths.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from musicgen.model.decoder.cuda_graphs import GraphCapture

BLOCK = 128
CPU_ROWS = 16  # with 6 rows and two threads, say, MKL gives a row other bits in another place; with a multiple of 16 it does not


class TorchOps:
    """Same operations as `CpuOps`. Weights, cache and products are in `dtype`; sums, norms and softmax in float32."""

    static_shapes = True

    def __init__(
        self, device: torch.device, dtype: torch.dtype, name: str, capture: Callable[[], GraphCapture] | None = None
    ):
        self.device = device
        self.dtype = dtype
        self.capture = capture  # makes graphs of the steps; None: each operation is launched by itself
        self.threads = torch.get_num_threads()
        self._name = name

    @property
    def name(self) -> str:
        """For the engine's fingerprint."""
        return self._name if self.capture is None else f"{self._name}-graphs"

    def disable_capture(self) -> None:
        """A capture has failed: from now on each operation is launched by itself."""
        self.capture = None

    def pack(self, weight: Tensor) -> Tensor:
        """A weight [columns, depth] in the right dtype."""
        return weight.to(self.device, self.dtype).contiguous()

    def linear(self, x: Tensor, weight: Tensor, activate: bool = False) -> Tensor:
        """x [rows, depth] (through the GELU if `activate`) times weight^T -> float32 [rows, columns]."""
        if activate:
            x = functional.gelu(x)
        rows = x.shape[0]
        if self.device.type == "cpu" and rows % CPU_ROWS:
            x = functional.pad(x, (0, 0, 0, -rows % CPU_ROWS))
        return functional.linear(x.to(self.dtype), weight).float()[:rows]

    def norm(self, x: Tensor, delta: Tensor | None, weight: Tensor, bias: Tensor) -> Tensor:
        """x[: len(delta)] += delta, in place; returns the layer norm of x [rows, hidden]."""
        if delta is not None:
            x[: delta.shape[0]] += delta
        return functional.layer_norm(x, x.shape[-1:], weight, bias, 1e-5)

    def allocate_cache(
        self, rows: int, heads: int, capacity: int, dim: int, device: str | None = None
    ) -> tuple[Tensor, Tensor]:
        """Keys and values for one layer, [rows, heads, capacity, dim] each."""
        shape, where = (rows, heads, self.round_capacity(capacity), dim), device or self.device
        return torch.zeros(shape, dtype=self.dtype, device=where), torch.zeros(shape, dtype=self.dtype, device=where)

    def round_capacity(self, capacity: int) -> int:
        """The positions that are allocated where `capacity` are needed."""
        return -(-capacity // BLOCK) * BLOCK

    def work_bytes(self, tokens: int, heads: int, hidden: int, ffn: int) -> int:
        """What one layer holds at most, beside the cache: a block of keys and values for each token, or the feed-forward's."""
        itemsize = self.dtype.itemsize
        gathered = BLOCK * (
            hidden * (2 * 4 + (itemsize if itemsize < 4 else 0)) + heads * 4 * 4
        )  # float32, one also as it is stored; scores
        return tokens * (8 * 4 * hidden + max(gathered, 4 * hidden + ffn * (2 * 4 + 2 * itemsize)))

    def append(self, k: Tensor, v: Tensor, rows: Tensor, lengths: Tensor, cache: tuple[Tensor, Tensor]) -> None:
        """Token i's key and value [tokens, hidden] become position lengths[i] - 1 of row rows[i]."""
        for values, store in ((k, cache[0]), (v, cache[1])):
            heads, dim = store.shape[1], store.shape[3]
            store[rows.long(), :, lengths.long() - 1] = values.reshape(-1, heads, dim).to(self.dtype)

    def attend(self, q: Tensor, rows: Tensor, lengths: Tensor, cache: tuple[Tensor, Tensor], longest: int) -> Tensor:
        """Token i's query against the first lengths[i] (at most `longest`) positions of row rows[i] -> [tokens, hidden].

        Length 0 gives zeros.
        """
        keys, values = cache
        heads, dim = keys.shape[1], keys.shape[3]
        q = q.reshape(-1, heads, dim, 1).float() * dim**-0.5
        top = torch.full((q.shape[0], heads, 1), -torch.inf, device=q.device)
        total = torch.zeros_like(top)
        out = torch.zeros(q.shape[0], heads, dim, device=q.device)
        where = rows.long()
        for start in range(0, longest, BLOCK):
            k = keys[where, :, start : start + BLOCK].float()  # [tokens, heads, BLOCK, dim]
            v = values[where, :, start : start + BLOCK].float()
            live = torch.arange(start, start + k.shape[2], device=q.device) < lengths[:, None]
            scores = (k @ q).squeeze(-1).masked_fill(~live[:, None], -torch.inf)
            peak = torch.maximum(top, scores.amax(-1, keepdim=True))
            safe = peak.masked_fill(peak == -torch.inf, 0.0)
            p, fade = torch.exp(scores - safe), torch.exp(top - safe)
            total = total * fade + p.sum(-1, keepdim=True)
            out = out * fade + (p[..., None, :] @ v).squeeze(-2)
            top = peak
            del k, v  # or the next ones would be gathered beside them
        return (out / total.clamp_min(1e-30)).reshape(-1, heads * dim)
