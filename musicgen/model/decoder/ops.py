"""The operations that the decoder is made of, as an interface with two implementations: `CpuOps` and `TorchOps`."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from musicgen.model.decoder.cuda_graphs import GraphCapture

LayerCache = tuple[Tensor, Tensor]  # keys and values of one layer
SamplingKernel = Callable[
    [Tensor, NDArray[np.void], Tensor, Tensor], None
]  # logits, parameters, steps, codes: see CpuOps.sample


@dataclass(frozen=True, slots=True, eq=False)
class PackedWeight:
    """A weight matrix [columns, depth] in the memory layout of the operations that packed it."""

    data: Tensor
    columns: int
    depth: int


@dataclass(frozen=True, slots=True)
class RowSpan:
    """Says that tokens are the positions from `start` on of the cache's rows `first`, `first + stride`, ..., row after
    row; those before `start` are in the cache.
    """

    first: int
    stride: int
    rows: int
    start: int = 0


class DecoderOps(Protocol):
    """What one decode step computes with. Weights and cache are in one dtype; activations are float32.

    The arithmetic of a row depends on `name`, on `threads` nowhere, and on the number of rows only where
    `static_shapes` is set.
    """

    static_shapes: bool  # the number of rows may change a row's bits: always run all rows of all slots
    threads: int  # CPU threads of one operation

    @property
    def name(self) -> str:
        """The implementation's name in the engine's fingerprint, which is recorded in datasets."""

    @property
    def captures_graphs(self) -> bool:
        """Whether `new_graph_capture` gives a capture."""

    @property
    def sampling_kernel(self) -> SamplingKernel | None:
        """A compiled kernel that samples codes; None: the engine samples with torch."""

    def with_threads(self, threads: int) -> "DecoderOps":
        """The same operations on another number of threads; this object is left as it is."""

    def new_graph_capture(self) -> GraphCapture | None:
        """A new recorder of CUDA graphs, or None where every operation is launched by itself."""

    def pack(self, weight: Tensor) -> PackedWeight:
        """Lay out a weight [columns, depth] for `linear`."""

    def linear(self, x: Tensor, weight: PackedWeight, activate: bool = False) -> Tensor:
        """Multiply x [rows, depth] (first through the GELU if `activate`) with weight^T -> float32 [rows, columns]."""

    def norm(self, x: Tensor, delta: Tensor | None, weight: Tensor, bias: Tensor) -> Tensor:
        """Add delta to the first rows of x [rows, hidden] in place, and return the layer norm of x."""

    def allocate_cache(self, rows: int, heads: int, capacity: int, dim: int, device: str | None = None) -> LayerCache:
        """Allocate keys and values of one layer, zeros, for at least `capacity` positions a row."""

    def round_capacity(self, capacity: int) -> int:
        """The positions that are allocated where `capacity` are needed."""

    def work_bytes(self, tokens: int, heads: int, hidden: int, ffn: int) -> int:
        """The most bytes that one layer holds besides weights and cache."""

    def append(self, k: Tensor, v: Tensor, rows: Tensor, lengths: Tensor, cache: LayerCache) -> None:
        """Write token i's key and value [tokens, hidden] to position lengths[i] - 1 of row rows[i]."""

    def append_and_attend(
        self, qkv: Tensor, rows: Tensor, lengths: Tensor, cache: LayerCache, longest: int, span: RowSpan | None = None
    ) -> Tensor:
        """Append the keys and values of qkv [tokens, 3 hidden], and attend with its queries -> [tokens, hidden].

        `span` says the same as `rows` and `lengths`, on the host, for operations that take a row's tokens together.
        """

    def attend(self, q: Tensor, rows: Tensor, lengths: Tensor, cache: LayerCache, longest: int) -> Tensor:
        """Attend with token i's query [tokens, hidden] to the first lengths[i] positions of row rows[i] -> [tokens,
        hidden].

        `longest` is an upper bound of the lengths. A length of 0 gives zeros.
        """
