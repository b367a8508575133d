"""The decoder's weights by layer, and their reader, which takes them out of a checkpoint's tensors."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from musicgen.errors import ModelError
from musicgen.model.decoder.ops import DecoderOps, PackedWeight
from musicgen.model.spec import ModelSpec


@dataclass(frozen=True, slots=True, eq=False)
class NormWeights:
    """Scale and shift of a layer norm, float32 [hidden]."""

    weight: Tensor
    bias: Tensor


@dataclass(frozen=True, slots=True, eq=False)
class CrossAttentionWeights:
    """The weights of one layer's attention to the text."""

    norm: NormWeights
    q: PackedWeight  # [hidden, hidden]
    kv: PackedWeight  # [2 hidden, hidden]
    out: PackedWeight  # [hidden, hidden]


@dataclass(frozen=True, slots=True, eq=False)
class LayerWeights:
    """The weights of one layer, packed for the operations. Melody and style models have no cross-attention."""

    norm: NormWeights
    qkv: PackedWeight  # [3 hidden, hidden]
    out: PackedWeight  # [hidden, hidden]
    ffn_norm: NormWeights
    up: PackedWeight  # [ffn, hidden]
    down: PackedWeight  # [hidden, ffn]
    cross: CrossAttentionWeights | None = None


class WeightReader:
    """Takes tensors out of a state dict, checks their shapes, and packs them for the operations."""

    def __init__(self, spec: ModelSpec, tensors: Mapping[str, Tensor], device: torch.device, ops: DecoderOps):
        self.spec, self.tensors, self.device, self.ops = spec, tensors, device, ops

    def layer(self, index: int) -> LayerWeights:
        """One layer. Raises `ModelError` for cross-attention that the kind of model should lack, or lacks."""
        name, hidden, ffn = f"model.decoder.layers.{index}", self.spec.hidden, self.spec.ffn
        has_cross = f"{name}.encoder_attn.q_proj.weight" in self.tensors
        if has_cross != (self.spec.kind == "text"):
            raise ModelError(
                f"the decoder {'has' if has_cross else 'lacks'} cross-attention, which is wrong for a "
                f"{self.spec.kind} model"
            )
        attention = f"{name}.self_attn"
        return LayerWeights(
            norm=self.norm(f"{attention}_layer_norm"),
            qkv=self.weight(f"{attention}.q_proj", f"{attention}.k_proj", f"{attention}.v_proj"),
            out=self.weight(f"{attention}.out_proj"),
            ffn_norm=self.norm(f"{name}.final_layer_norm"),
            up=self.ops.pack(_pad_to_even(self.tensor(f"{name}.fc1.weight", (ffn, hidden)), dim=0)),
            down=self.ops.pack(_pad_to_even(self.tensor(f"{name}.fc2.weight", (hidden, ffn)), dim=1)),
            cross=self.cross_attention(f"{name}.encoder_attn") if has_cross else None,
        )

    def cross_attention(self, name: str) -> CrossAttentionWeights:
        """The attention to the text whose tensors begin with `name`."""
        return CrossAttentionWeights(
            norm=self.norm(f"{name}_layer_norm"),
            q=self.weight(f"{name}.q_proj"),
            kv=self.weight(f"{name}.k_proj", f"{name}.v_proj"),
            out=self.weight(f"{name}.out_proj"),
        )

    def tensor(self, name: str, shape: tuple[int, ...]) -> Tensor:
        """One tensor of the expected shape. Raises `ModelError`."""
        if name not in self.tensors:
            raise ModelError(f"the decoder lacks the tensor {name}; the checkpoint is incomplete")
        if self.tensors[name].shape != shape:
            raise ModelError(
                f"the decoder's {name} has the shape {tuple(self.tensors[name].shape)}, its config says {shape}"
            )
        return self.tensors[name]

    def weight(self, *names: str, rows: int | None = None) -> PackedWeight:
        """The weights of linear layers, one below the other, packed as one matrix."""
        shape = (rows or self.spec.hidden, self.spec.hidden)
        return self.ops.pack(torch.cat([self.tensor(f"{name}.weight", shape) for name in names]))

    def norm(self, name: str) -> NormWeights:
        """A layer norm, float32."""
        parts = (self.tensor(f"{name}.{part}", (self.spec.hidden,)) for part in ("weight", "bias"))
        return NormWeights(*(part.to(self.device, torch.float32).contiguous() for part in parts))


def _pad_to_even(weight: Tensor, dim: int) -> Tensor:
    """Add zeros to a dimension of odd length, because the kernels take pairs of inputs.

    A feed-forward state more, whose weights are zeros, is gelu(0) = 0 and adds exactly nothing.
    """
    if weight.shape[dim] % 2 == 0:
        return weight
    return torch.cat([weight, torch.zeros_like(weight.narrow(dim, 0, 1))], dim)
