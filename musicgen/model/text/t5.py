"""T5's encoder (Raffel et al. 2020), and FLAN-T5's with its gated layers: tokens to states.

It computes what transformers' `T5EncoderModel` does, in the same order, so the bits are the same; a test compares them.
To import transformers' models takes longer than all else that a short run does.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from functools import partial
from typing import Self

import torch
from torch import Tensor
from torch.nn import functional

from musicgen.errors import ModelError
from musicgen.model.checkpoint.tensors import check_parameters

_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": functional.relu,
    "gelu": functional.gelu,
    "silu": functional.silu,
}


@dataclass(frozen=True, slots=True)
class T5Settings:
    """The settings of a T5 encoder as its config names them, with the defaults of the format."""

    vocab_size: int = 32128
    d_model: int = 512
    d_kv: int = 64
    d_ff: int = 2048
    num_layers: int = 6
    num_heads: int = 8
    relative_attention_num_buckets: int = 32
    relative_attention_max_distance: int = 128
    layer_norm_epsilon: float = 1e-6
    feed_forward_proj: str = "relu"

    @classmethod
    def read(cls, config: Mapping[str, object], label: str) -> Self:
        """Take the settings from a config's section. Raises `ModelError`, which begins with `label`."""
        settings = cls(**{field.name: config[field.name] for field in fields(cls) if field.name in config})  # type: ignore[arg-type]
        activation = settings.feed_forward_proj.removeprefix("gated-")
        if activation not in _ACTIVATIONS:
            raise ModelError(
                f"{label}: feed_forward_proj {settings.feed_forward_proj!r} is not supported; it must be one of "
                f"{', '.join(_ACTIVATIONS)}, with or without gated- before it"
            )
        return settings

    @property
    def is_gated(self) -> bool:
        """Whether the feed-forward layers have a gate, as those of T5 v1.1 and FLAN-T5."""
        return self.feed_forward_proj.startswith("gated-")


class T5Encoder:
    """The encoder's layers over the tokens of prompts; `weights` have the names of the published format."""

    def __init__(self, settings: T5Settings, weights: Mapping[str, Tensor], label: str):
        """Raise `ModelError`, which begins with `label`, if a weight is missing or of another shape."""
        check_parameters(dict(_expect_shapes(settings)), weights, label)
        self._settings = settings
        self._weights = weights
        self._activate = _choose_activation(settings)

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return self._weights[_TABLE].device

    def __call__(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        """Encode tokens [B, N], of which those from `lengths` [B] on are padding -> states float32 [B, N, d_model]."""
        states = functional.embedding(tokens, self._weights[_TABLE])
        bias = self._compute_bias(tokens.shape[1])
        is_padding = torch.arange(tokens.shape[1], device=self.device) >= lengths[:, None]  # [B, N]
        bias = bias.masked_fill(is_padding[:, None, None], torch.finfo(bias.dtype).min)  # [B, heads, N, N]
        for number in range(self._settings.num_layers):
            attention, dense = _layer_names(number)
            states = states + self._attend(attention, self._normalize(attention, states), bias)
            states = states + self._feed_forward(dense, self._normalize(dense, states))
        return self._normalize("encoder.final_", states)

    def _attend(self, name: str, states: Tensor, bias: Tensor) -> Tensor:
        """Attend over states [B, N, d_model], without a scale: T5's weights contain it."""
        query, key, value = (
            self._project(f"{name}SelfAttention.{part}", states)
            .view(*states.shape[:2], self._settings.num_heads, self._settings.d_kv)
            .transpose(1, 2)
            for part in "qkv"
        )  # [B, heads, N, d_kv] each
        weights = functional.softmax(torch.matmul(query, key.transpose(2, 3)) + bias, dim=-1)
        mixed = torch.matmul(weights, value).transpose(1, 2).flatten(2)
        return self._project(f"{name}SelfAttention.o", mixed)

    def _feed_forward(self, name: str, states: Tensor) -> Tensor:
        project = partial(self._project, states=states)
        if self._settings.is_gated:
            inner = self._activate(project(f"{name}DenseReluDense.wi_0")) * project(f"{name}DenseReluDense.wi_1")
        else:
            inner = self._activate(project(f"{name}DenseReluDense.wi"))
        return self._project(f"{name}DenseReluDense.wo", inner)

    def _project(self, name: str, states: Tensor) -> Tensor:
        return functional.linear(states, self._weights[f"{name}.weight"])

    def _normalize(self, name: str, states: Tensor) -> Tensor:
        """Divide by the root of the mean square, and scale."""
        mean_square = states.pow(2).mean(-1, keepdim=True)
        scaled = states * torch.rsqrt(mean_square + self._settings.layer_norm_epsilon)
        return self._weights[f"{name}layer_norm.weight"] * scaled

    def _compute_bias(self, count: int) -> Tensor:
        """Look up what is added to the scores for the distances of `count` tokens -> [heads, N, N]."""
        positions = torch.arange(count, device=self.device)
        buckets = self._find_buckets(positions[None, :] - positions[:, None])
        return functional.embedding(buckets, self._weights[_BIAS]).permute(2, 0, 1).contiguous()

    def _find_buckets(self, distances: Tensor) -> Tensor:
        """Number the distances: half of the buckets for each sign, of which half are exact and half logarithmic."""
        buckets = self._settings.relative_attention_num_buckets // 2
        exact = buckets // 2
        size = distances.abs()
        octaves = torch.log(size.float() / exact) / math.log(self._settings.relative_attention_max_distance / exact)
        far = (exact + (octaves * (buckets - exact)).to(torch.long)).clamp(max=buckets - 1)
        return (distances > 0).to(torch.long) * buckets + torch.where(size < exact, size, far)


_TABLE = "encoder.embed_tokens.weight"
_BIAS = "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"


def _layer_names(number: int) -> tuple[str, str]:
    """Return the prefixes of a block's attention and feed-forward weights."""
    return f"encoder.block.{number}.layer.0.", f"encoder.block.{number}.layer.1."


def _expect_shapes(settings: T5Settings) -> Iterator[tuple[str, tuple[int, ...]]]:
    width, inner = settings.d_model, settings.num_heads * settings.d_kv
    yield _TABLE, (settings.vocab_size, width)
    yield _BIAS, (settings.relative_attention_num_buckets, settings.num_heads)
    for number in range(settings.num_layers):
        attention, dense = _layer_names(number)
        for part in "qkv":
            yield f"{attention}SelfAttention.{part}.weight", (inner, width)
        yield f"{attention}SelfAttention.o.weight", (width, inner)
        for part in ("wi_0", "wi_1") if settings.is_gated else ("wi",):
            yield f"{dense}DenseReluDense.{part}.weight", (settings.d_ff, width)
        yield f"{dense}DenseReluDense.wo.weight", (width, settings.d_ff)
        yield f"{attention}layer_norm.weight", (width,)
        yield f"{dense}layer_norm.weight", (width,)
    yield "encoder.final_layer_norm.weight", (width,)


def _choose_activation(settings: T5Settings) -> Callable[[Tensor], Tensor]:
    name = settings.feed_forward_proj.removeprefix("gated-")
    return _approximate_gelu if settings.is_gated and name == "gelu" else _ACTIVATIONS[name]


def _approximate_gelu(states: Tensor) -> Tensor:
    """Compute GELU by a hyperbolic tangent (Hendrycks & Gimpel 2016), which T5's gated layers mean by `gelu`."""
    inner = math.sqrt(2.0 / math.pi) * (states + 0.044715 * torch.pow(states, 3.0))
    return 0.5 * states * (1.0 + torch.tanh(inner))
