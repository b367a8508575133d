"""MusicGen's decoder: a transformer over sums of codebook embeddings (Copet et al. 2023, sections 3.1 and 3.4).

It computes on *tokens*: (embedding, row of the cache, position). A decode step has one token for each live row; a
prefix or a forced context has many tokens of one row. Both go through the same function, so a row's result does not
depend on how its earlier positions got into the cache.
"""

import copy
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from musicgen.model.decoder.cpu_ops import CpuOps, load_library
from musicgen.model.decoder.cuda_graphs import find_graph_capture
from musicgen.model.decoder.layer_weights import LayerWeights, NormWeights, WeightReader
from musicgen.model.decoder.ops import DecoderOps, LayerCache, PackedWeight, RowSpan
from musicgen.model.decoder.torch_ops import TorchOps
from musicgen.model.decoder.triton_ops import make_triton_ops
from musicgen.model.spec import ModelSpec


@dataclass(slots=True, eq=False)
class KVCache:
    """Keys and values by layer: of the rows' own earlier positions, and of the text that the first rows attend to."""

    layers: list[LayerCache]
    text: list[LayerCache]  # empty in a model without cross-attention
    text_lengths: Tensor  # int32 [rows with text]; 0: no text to attend to

    @property
    def capacity(self) -> int:
        """Positions per row."""
        return self.layers[0][0].shape[2]


@dataclass(slots=True, eq=False)
class TokenBatch:
    """Where a step's tokens belong. The first `num_with_text` tokens attend to the text of their row."""

    rows: Tensor  # int32 [tokens]: row of the cache
    lengths: Tensor  # int32 [tokens]: position + 1
    num_with_text: int
    text_lengths: Tensor  # int32 [num_with_text]: text states to attend to
    longest: int  # an upper bound of `lengths`, known on the host
    span: RowSpan | None = None  # the same as rows and lengths, where they are positions of several rows together


class Decoder:
    """The decoder's weights and its forward pass, on one device and in one dtype."""

    def __init__(self, spec: ModelSpec, device: torch.device, dtype: torch.dtype, ops: DecoderOps):
        self.spec = spec
        self.device = device
        self.dtype = dtype
        self.ops = ops
        self.layers: list[LayerWeights] = []
        self.final_norm: NormWeights
        self.heads: PackedWeight
        self.embeddings: Tensor  # float32 or dtype [codebooks * (size + 1), hidden]
        self._codebook_offsets = torch.arange(spec.codebooks, device=device) * (spec.codebook_size + 1)
        self._positions = torch.empty(0, spec.hidden, device=device)
        self._outgrown_positions: list[
            Tensor
        ] = []  # shorter tables, which another engine's captured steps may still read

    @classmethod
    def from_state_dict(
        cls, spec: ModelSpec, tensors: Mapping[str, Tensor], device: torch.device | str, dtype: torch.dtype
    ) -> "Decoder":
        """Build a decoder from a checkpoint's `decoder.*` tensors (prefix stripped, published format). Raises
        `ModelError`.

        On a CPU the weights are repacked one by one; the given tensors are not kept.
        """
        device = torch.device(device)
        decoder = cls(spec, device, dtype, _choose_ops(device, dtype, spec.head_dim))
        reader = WeightReader(spec, tensors, device, decoder.ops)
        decoder.layers = [reader.layer(index) for index in range(spec.layers)]
        decoder.final_norm = reader.norm("model.decoder.layer_norm")
        decoder.heads = reader.weight(*(f"lm_heads.{k}" for k in range(spec.codebooks)), rows=spec.codebook_size)
        shape = (spec.codebook_size + 1, spec.hidden)
        tables = [reader.tensor(f"model.decoder.embed_tokens.{k}.weight", shape) for k in range(spec.codebooks)]
        decoder.embeddings = torch.cat(tables).to(device, dtype)
        return decoder

    def with_threads(self, threads: int) -> "Decoder":
        """A decoder over the same weights whose operations use so many CPU threads; this one if it does already."""
        if threads == self.ops.threads:
            return self
        other = copy.copy(self)
        other.ops = self.ops.with_threads(threads)
        return other

    def allocate_cache(self, rows: int, capacity: int, text_rows: int, text_capacity: int) -> KVCache:
        """Allocate an empty cache: `capacity` positions for each of `rows`, `text_capacity` text states for the first
        `text_rows`.
        """
        heads, dim, has_text = self.spec.heads, self.spec.head_dim, self.spec.kind == "text"
        return KVCache(
            layers=[self.ops.allocate_cache(rows, heads, capacity, dim) for _ in self.layers],
            text=[self.ops.allocate_cache(text_rows, heads, text_capacity, dim) for _ in self.layers if has_text],
            text_lengths=torch.zeros(text_rows, dtype=torch.int32, device=self.device),
        )

    def cache_bytes(self, rows: int, capacity: int, text_rows: int, text_capacity: int) -> int:
        """The bytes that `allocate_cache` allocates for the same arguments."""
        sizes = [(rows, capacity)] + ([(text_rows, text_capacity)] if self.spec.kind == "text" else [])
        pairs = [self.ops.allocate_cache(r, self.spec.heads, c, self.spec.head_dim, device="meta") for r, c in sizes]
        return self.spec.layers * sum(tensor.numel() * tensor.element_size() for pair in pairs for tensor in pair)

    def write_text_cache(self, cache: KVCache, row: int, text: Tensor | None) -> None:
        """Compute the keys and values of a row's text [states, hidden] in every layer, once per request; None: it has
        no text.
        """
        length = 0 if text is None else text.shape[0]
        cache.text_lengths[row].fill_(length)  # an assignment would copy from the host, and wait
        if text is None or not length or not cache.text:
            return
        rows = torch.full((length,), row, dtype=torch.int32, device=self.device)
        lengths = torch.arange(1, length + 1, dtype=torch.int32, device=self.device)
        states = text.to(self.device, torch.float32).contiguous()
        for layer, text_cache in zip(self.layers, cache.text, strict=True):
            assert layer.cross is not None
            kv = self.ops.linear(states, layer.cross.kv)
            self.ops.append(kv[:, : self.spec.hidden], kv[:, self.spec.hidden :], rows, lengths, text_cache)

    def embed(self, codes: Tensor) -> Tensor:
        """Sum the codebooks' embeddings: codes [tokens, codebooks] -> float32 [tokens, hidden]."""
        rows = torch.nn.functional.embedding(
            codes + self._codebook_offsets, self.embeddings
        )  # [tokens, codebooks, hidden]
        x = rows[:, 0].float()
        for k in range(
            1, self.spec.codebooks
        ):  # one by one, so that the order of the sum does not depend on the number of tokens
            x = x + rows[:, k]
        return x

    def forward(self, x: Tensor, tokens: TokenBatch, cache: KVCache) -> Tensor:
        """Run embeddings x [tokens, hidden], positions not yet added, through the layers -> normed states [tokens,
        hidden].
        """
        return self.run_layers(x + self.positions(tokens.lengths), tokens, cache)

    def run_layers(self, x: Tensor, tokens: TokenBatch, cache: KVCache) -> Tensor:
        """Run embeddings with positions, float32 [tokens, hidden], which are overwritten -> normed states."""
        ops, num_with_text = self.ops, tokens.num_with_text
        delta = None
        for index, layer in enumerate(self.layers):
            h = ops.norm(x, delta, layer.norm.weight, layer.norm.bias)
            qkv = ops.linear(h, layer.qkv)
            attended = ops.append_and_attend(
                qkv, tokens.rows, tokens.lengths, cache.layers[index], tokens.longest, tokens.span
            )
            delta = ops.linear(attended, layer.out)
            if layer.cross is not None and num_with_text:
                # Null rows would attend to zeros, which adds exactly nothing, so they are skipped.
                h = ops.norm(x, delta, layer.cross.norm.weight, layer.cross.norm.bias)
                q = ops.linear(h[:num_with_text], layer.cross.q)
                text_cache = cache.text[index]
                rows, capacity = tokens.rows[:num_with_text], text_cache[0].shape[2]
                delta = ops.linear(ops.attend(q, rows, tokens.text_lengths, text_cache, capacity), layer.cross.out)
            h = ops.norm(x, delta, layer.ffn_norm.weight, layer.ffn_norm.bias)
            delta = ops.linear(ops.linear(h, layer.up), layer.down, activate=True)
        return ops.norm(x, delta, self.final_norm.weight, self.final_norm.bias)

    def logits(self, states: Tensor) -> Tensor:
        """Multiply normed states [tokens, hidden] with the heads -> float32 [tokens, codebooks, codebook_size]."""
        return self.ops.linear(states, self.heads).view(-1, self.spec.codebooks, self.spec.codebook_size)

    def positions(self, lengths: Tensor) -> Tensor:
        """Look up the sinusoids of positions lengths - 1, float32 [tokens, hidden], in the table that
        `reserve_positions` made.
        """
        return self._positions[lengths.long() - 1]

    @property
    def position_table(self) -> Tensor:
        """The sinusoids float32 [positions, hidden] that `reserve_positions` made."""
        return self._positions

    def reserve_positions(self, capacity: int) -> None:
        """Make the table of sinusoids long enough for positions below `capacity`."""
        if self._positions.shape[0] < capacity:
            self._outgrown_positions.append(self._positions)
            table = sinusoidal_positions(max(capacity, self.spec.max_positions), self.spec.hidden)
            self._positions = table.to(self.dtype).float().to(self.device)


def sinusoidal_positions(positions: int, hidden: int) -> Tensor:
    """Compute sinusoidal embeddings float32 [positions, hidden] as in tensor2tensor: cosines first (transformers'
    MusicGen).
    """
    half = hidden // 2
    rates = torch.exp(torch.arange(half).float() * -(math.log(10000) / (half - 1)))
    angles = torch.arange(positions).float()[:, None] * rates[None]
    return torch.cat([angles.cos(), angles.sin()], dim=1)


def _choose_ops(device: torch.device, dtype: torch.dtype, head_dim: int) -> DecoderOps:
    """Choose kernels, compiled for a CPU that has a compiler or by Triton for CUDA, and torch's own operations
    elsewhere.
    """
    if device.type == "cpu" and dtype in (torch.float32, torch.bfloat16):
        library = load_library()
        if not isinstance(library, str):
            return CpuOps(library, dtype, torch.get_num_threads())
        return TorchOps(device, dtype, f"eager ({library})")
    if device.type != "cuda" or os.environ.get("MUSICGEN_COMPILE", "1") == "0":
        return TorchOps(device, dtype, "eager")
    ops = make_triton_ops(device, dtype, head_dim, find_graph_capture(device))
    return TorchOps(device, dtype, f"eager ({ops})", find_graph_capture(device)) if isinstance(ops, str) else ops
