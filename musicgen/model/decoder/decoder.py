"""MusicGen's decoder: a transformer over sums of codebook embeddings (Copet et al. 2023, sections 3.1 and 3.4).

It runs *tokens*: (embedding, row of the cache, position). A decode step is one token for each live row; a prefix or a
forced context is many tokens of one row. Both are the same function, so it does not matter to the result how a row's
past got into the cache.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from musicgen.errors import ModelError
from musicgen.model.decoder.cpu_ops import CpuOps, load_library
from musicgen.model.decoder.cuda_graphs import find_graph_capture
from musicgen.model.decoder.torch_ops import TorchOps
from musicgen.model.spec import ModelSpec


@dataclass(frozen=True, slots=True, eq=False)
class NormWeights:
    """Scale and shift of a layer norm, float32 [hidden]."""

    weight: Tensor
    bias: Tensor


@dataclass(frozen=True, slots=True, eq=False)
class LayerWeights:
    """One layer's weights as the operations want them. Melody and style models have no cross-attention."""

    norm: NormWeights
    qkv: Any  # [3 hidden, hidden]
    out: Any
    ffn_norm: NormWeights
    up: Any  # [ffn, hidden]
    down: Any
    cross_norm: NormWeights | None = None
    cross_q: Any = None
    cross_kv: Any = None  # [2 hidden, hidden]
    cross_out: Any = None


@dataclass(slots=True, eq=False)
class KVCache:
    """Keys and values, (keys, values) per layer: of the rows' own past, and of the text that the first rows attend to."""

    layers: list[tuple[Tensor, Tensor]]
    text: list[tuple[Tensor, Tensor]]
    text_lengths: Tensor  # int32 [rows with text]; 0: nothing to attend to

    @property
    def nbytes(self) -> int:
        """Bytes allocated."""
        return sum(t.numel() * t.element_size() for pair in self.layers + self.text for t in pair)

    @property
    def capacity(self) -> int:
        """Positions per row."""
        return self.layers[0][0].shape[2]


@dataclass(slots=True, eq=False)
class TokenBatch:
    """Where a step's tokens go. The first `crossed` tokens have text to attend to, and their row is its row."""

    rows: Tensor  # int32 [tokens]
    lengths: Tensor  # int32 [tokens]: position + 1
    num_with_text: int
    text_lengths: Tensor  # int32 [crossed]: text states to attend to
    longest: int  # of the lengths, known without asking the device


class Decoder:
    """The weights, and the step over them."""

    def __init__(self, spec: ModelSpec, device: torch.device, dtype: torch.dtype, ops: "CpuOps | TorchOps"):
        self.spec = spec
        self.device = device
        self.dtype = dtype
        self.ops = ops
        self.layers: list[LayerWeights] = []
        self.final_norm: NormWeights
        self.heads: Any
        self.embeddings: Tensor  # float32 or dtype [codebooks * (size + 1), hidden]
        self._offsets = torch.arange(spec.codebooks, device=device) * (spec.codebook_size + 1)
        self._positions = torch.empty(0, spec.hidden, device=device)
        self._outgrown: list[Tensor] = []  # shorter tables: another engine's captured steps may still read them

    @classmethod
    def from_state_dict(
        cls, spec: ModelSpec, tensors: Mapping[str, Tensor], device: torch.device | str, dtype: torch.dtype
    ) -> "Decoder":
        """Build from a checkpoint's `decoder.*` tensors (prefix stripped; published format). Raises `ModelError`.

        On a CPU the weights are repacked one by one; the given tensors are not kept.
        """
        if spec.activation != "gelu":
            raise ModelError(f"decoder.activation_function {spec.activation!r} is not supported; it must be gelu")
        device = torch.device(device)
        decoder = cls(spec, device, dtype, _choose_ops(device, dtype))
        read = _WeightReader(spec, tensors, device, decoder.ops)
        for i in range(spec.layers):
            at = f"model.decoder.layers.{i}"
            crossed = f"{at}.encoder_attn.q_proj.weight" in tensors
            if crossed != (spec.kind == "text"):
                raise ModelError(
                    f"the decoder {'has' if crossed else 'lacks'} cross-attention, which is wrong for a {spec.kind} model"
                )
            own, text = f"{at}.self_attn", f"{at}.encoder_attn"
            decoder.layers.append(
                LayerWeights(
                    norm=read.norm(f"{own}_layer_norm"),
                    qkv=read.weight(f"{own}.q_proj", f"{own}.k_proj", f"{own}.v_proj"),
                    out=read.weight(f"{own}.out_proj"),
                    ffn_norm=read.norm(f"{at}.final_layer_norm"),
                    up=read.weight(f"{at}.fc1", rows=spec.ffn),
                    down=read.weight(f"{at}.fc2", columns=spec.ffn),
                    cross_norm=read.norm(f"{text}_layer_norm") if crossed else None,
                    cross_q=read.weight(f"{text}.q_proj") if crossed else None,
                    cross_kv=read.weight(f"{text}.k_proj", f"{text}.v_proj") if crossed else None,
                    cross_out=read.weight(f"{text}.out_proj") if crossed else None,
                )
            )
        decoder.final_norm = read.norm("model.decoder.layer_norm")
        decoder.heads = read.weight(*(f"lm_heads.{k}" for k in range(spec.codebooks)), rows=spec.codebook_size)
        table = (spec.codebook_size + 1, spec.hidden)
        tables = [read.tensor(f"model.decoder.embed_tokens.{k}.weight", table) for k in range(spec.codebooks)]
        decoder.embeddings = torch.cat(tables).to(device, dtype)
        return decoder

    def allocate_cache(self, rows: int, capacity: int, text_rows: int, text_capacity: int) -> KVCache:
        """An empty cache: `capacity` positions for each of `rows`, `text_capacity` text states for the first `text_rows`."""
        heads, dim = self.spec.heads, self.spec.head_dim
        crossed = self.spec.kind == "text"
        return KVCache(
            layers=[self.ops.allocate_cache(rows, heads, capacity, dim) for _ in self.layers],
            text=[self.ops.allocate_cache(text_rows, heads, text_capacity, dim) for _ in self.layers if crossed],
            text_lengths=torch.zeros(text_rows, dtype=torch.int32, device=self.device),
        )

    def cache_bytes(self, rows: int, capacity: int, text_rows: int, text_capacity: int) -> int:
        """What `cache` of the same arguments allocates."""
        sizes = [(rows, capacity)] + ([(text_rows, text_capacity)] if self.spec.kind == "text" else [])
        pairs = [self.ops.allocate_cache(r, self.spec.heads, c, self.spec.head_dim, device="meta") for r, c in sizes]
        return self.spec.layers * sum(t.numel() * t.element_size() for pair in pairs for t in pair)

    def write_text_cache(self, cache: KVCache, row: int, text: Tensor | None) -> None:
        """Give a row its text [states, hidden]: keys and values of every layer, once per request. None: nothing to attend to."""
        length = 0 if text is None else text.shape[0]
        cache.text_lengths[row] = length
        if text is None or not length or not cache.text:
            return
        rows = torch.full((length,), row, dtype=torch.int32, device=self.device)
        lengths = torch.arange(1, length + 1, dtype=torch.int32, device=self.device)
        states = text.to(self.device, torch.float32).contiguous()
        for layer, store in zip(self.layers, cache.text, strict=True):
            kv = self.ops.linear(states, layer.cross_kv)
            self.ops.append(kv[:, : self.spec.hidden], kv[:, self.spec.hidden :], rows, lengths, store)

    def embed(self, codes: Tensor) -> Tensor:
        """Sum of the codebooks' embeddings: codes [tokens, codebooks] -> float32 [tokens, hidden]."""
        rows = torch.nn.functional.embedding(codes + self._offsets, self.embeddings)  # [tokens, codebooks, hidden]
        x = rows[:, 0].float()
        for k in range(1, self.spec.codebooks):  # in order: a sum whose order does not depend on the number of tokens
            x = x + rows[:, k]
        return x if self.spec.embed_scale == 1.0 else x * self.spec.embed_scale

    def forward(self, x: Tensor, tokens: TokenBatch, cache: KVCache) -> Tensor:
        """Run embeddings x [tokens, hidden] (not yet with positions) through the layers -> normed states [tokens, hidden]."""
        ops, hidden, crossed = self.ops, self.spec.hidden, tokens.num_with_text
        x = x + self.positions(tokens.lengths)
        delta = None
        for i, layer in enumerate(self.layers):
            h = ops.norm(x, delta, layer.norm.weight, layer.norm.bias)
            qkv = ops.linear(h, layer.qkv)
            ops.append(qkv[:, hidden : 2 * hidden], qkv[:, 2 * hidden :], tokens.rows, tokens.lengths, cache.layers[i])
            delta = ops.linear(
                ops.attend(qkv[:, :hidden], tokens.rows, tokens.lengths, cache.layers[i], tokens.longest), layer.out
            )
            if (
                layer.cross_norm is not None and crossed
            ):  # null rows attend to zeros, which adds exactly nothing: skipped
                h = ops.norm(x, delta, layer.cross_norm.weight, layer.cross_norm.bias)
                q = ops.linear(h[:crossed], layer.cross_q)
                text = cache.text[i]
                heard = ops.attend(q, tokens.rows[:crossed], tokens.text_lengths, text, text[0].shape[2])
                delta = ops.linear(heard, layer.cross_out)
            h = ops.norm(x, delta, layer.ffn_norm.weight, layer.ffn_norm.bias)
            delta = ops.linear(ops.linear(h, layer.up), layer.down, activate=True)
        return ops.norm(x, delta, self.final_norm.weight, self.final_norm.bias)

    def logits(self, states: Tensor) -> Tensor:
        """Normed states [tokens, hidden] -> float32 [tokens, codebooks, codebook_size]."""
        return self.ops.linear(states, self.heads).view(-1, self.spec.codebooks, self.spec.codebook_size)

    def positions(self, lengths: Tensor) -> Tensor:
        """Sinusoids cat[cos, sin] of positions lengths - 1, float32 [tokens, hidden], from a table of `reserve`'s length."""
        return self._positions[lengths.long() - 1]

    def reserve_positions(self, capacity: int) -> None:
        """Make the table of sinusoids long enough for positions below `capacity`."""
        if self._positions.shape[0] < capacity:
            self._outgrown.append(self._positions)
            self._positions = (
                sinusoidal_positions(max(capacity, self.spec.max_positions), self.spec.hidden)
                .to(self.dtype)
                .float()
                .to(self.device)
            )


def sinusoidal_positions(positions: int, hidden: int) -> Tensor:
    """Sinusoidal embeddings float32 [positions, hidden] as in tensor2tensor: cosines first (transformers' MusicGen)."""
    half = hidden // 2
    rates = torch.exp(torch.arange(half).float() * -(math.log(10000) / (half - 1)))
    angles = torch.arange(positions).float()[:, None] * rates[None]
    return torch.cat([angles.cos(), angles.sin()], dim=1)


class _WeightReader:
    """Takes tensors out of a state dict, checked, in the layout of the operations."""

    def __init__(self, spec: ModelSpec, tensors: Mapping[str, Tensor], device: torch.device, ops: "CpuOps | TorchOps"):
        self.spec, self.tensors, self.device, self.ops = spec, tensors, device, ops

    def tensor(self, name: str, shape: tuple[int, ...]) -> Tensor:
        if name not in self.tensors:
            raise ModelError(f"the decoder lacks the tensor {name}; the checkpoint is incomplete")
        if self.tensors[name].shape != shape:
            raise ModelError(
                f"the decoder's {name} has the shape {tuple(self.tensors[name].shape)}, its config says {shape}"
            )
        return self.tensors[name]

    def weight(self, *names: str, rows: int | None = None, columns: int | None = None) -> Any:
        shape = (rows or self.spec.hidden, columns or self.spec.hidden)
        return self.ops.pack(torch.cat([self.tensor(f"{name}.weight", shape) for name in names]))

    def norm(self, name: str) -> NormWeights:
        parts = (self.tensor(f"{name}.{part}", (self.spec.hidden,)) for part in ("weight", "bias"))
        return NormWeights(*(part.to(self.device, torch.float32).contiguous() for part in parts))


def _choose_ops(device: torch.device, dtype: torch.dtype) -> "CpuOps | TorchOps":
    """Compiled kernels on a CPU that has a compiler, torch's own operations elsewhere."""
    if device.type == "cpu" and dtype in (torch.float32, torch.bfloat16):
        library = load_library()
        if not isinstance(library, str):
            return CpuOps(library, dtype, torch.get_num_threads())
        return TorchOps(device, dtype, f"eager ({library})")
    return TorchOps(device, dtype, "eager", find_graph_capture(device))
