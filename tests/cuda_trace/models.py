"""Decoders of the published sizes whose weights are fake: shapes and devices without memory."""

from unittest.mock import patch

import torch
from torch import Tensor

from musicgen.conditioning.conditions import Branch, Conditions
from musicgen.model.decoder import decoder as decoder_module
from musicgen.model.decoder.decoder import Decoder
from musicgen.model.decoder.torch_ops import TorchOps
from musicgen.model.decoder.triton_ops import TritonOps
from musicgen.model.spec import Kind, ModelSpec
from musicgen.model.text.t5_embedder import MAX_TOKENS

CODEBOOKS, CODEBOOK_SIZE = 4, 2048
TEXT_STATES = 20
MELODY_PREFIX = 235 + TEXT_STATES  # chroma and text
STYLE_PREFIX = 24 + TEXT_STATES
WINDOW_FRAMES = 1500  # 30 s
SIZES = {"small": (1024, 16, 24), "medium": (1536, 24, 48), "large": (2048, 32, 48)}  # hidden, heads, layers


def make_spec(size: str, kind: Kind = "text", layers: int | None = None) -> ModelSpec:
    """The sizes of a published checkpoint, with other `layers` if they are given."""
    hidden, heads, published_layers = SIZES[size]
    return ModelSpec(
        kind=kind,
        sample_rate=32_000,
        frame_rate=50.0,
        channels=1,
        codebooks=CODEBOOKS,
        codebook_size=CODEBOOK_SIZE,
        max_frames=WINDOW_FRAMES,
        layers=layers or published_layers,
        hidden=hidden,
        heads=heads,
        ffn=4 * hidden,
        pattern="delay",
        max_positions=2048,
        text_encoder="t5",
        text_dim=768,
        text_projection=True,
        chroma_bins=12 if kind == "melody" else 0,
        chroma_length=235 if kind == "melody" else 0,
    )


def make_decoder(spec: ModelSpec, device: torch.device, triton: bool = True) -> Decoder:
    """Build the decoder from fake tensors in bfloat16, by the code that reads checkpoints.

    Its operations are those that CUDA has with Triton, or torch's, which are the fallback; neither captures graphs, so
    that each operation is counted by itself.
    """
    ops = TritonOps(device, torch.bfloat16) if triton else TorchOps(device, torch.bfloat16, "eager")
    with patch.object(decoder_module, "_choose_ops", lambda *arguments: ops):
        return Decoder.from_state_dict(spec, _fake_state_dict(spec), device, torch.bfloat16)


def make_null_prefix(spec: ModelSpec, device: torch.device) -> Tensor:
    """The null condition that all requests' last branches begin with, as long as a conditioner makes it."""
    positions = (MELODY_PREFIX if spec.kind == "melody" else STYLE_PREFIX) - TEXT_STATES
    return torch.empty(positions + MAX_TOKENS, spec.hidden, device=device)


def make_conditions(spec: ModelSpec, device: torch.device, shared: Tensor | None = None) -> Conditions:
    """The branches of one window as the kind of model has them: text by cross-attention, melody and style as prefix.

    The last branch of a prefix is the beginning of `shared`.
    """
    if spec.kind == "text":
        return Conditions((Branch(cross=torch.empty(TEXT_STATES, spec.hidden, device=device)), Branch()), 3.0)
    length, branches = (MELODY_PREFIX, 2) if spec.kind == "melody" else (STYLE_PREFIX, 3)
    prefix = torch.empty(length, spec.hidden, device=device)
    null = Branch(prefix=prefix) if shared is None else Branch(prefix=shared[:length], shared=shared)
    return Conditions((*(Branch(prefix=prefix),) * (branches - 1), null), 3.0)


def least_step_bytes(spec: ModelSpec, clips: int, positions: float, branches: int = 2) -> float:
    """The bytes that a decode step in bfloat16 cannot do without: each weight once, and the live keys and values.

    `positions` is the mean length of the rows. The text's keys and values are read for the first branch alone.
    """
    attention = 6 if spec.kind == "text" else 4  # matrices of hidden x hidden a layer; the text's keys are kept
    weights = spec.layers * (attention * spec.hidden**2 + 2 * spec.hidden * spec.ffn)
    heads = spec.codebooks * spec.codebook_size * spec.hidden
    text = clips * TEXT_STATES if spec.kind == "text" else 0
    cached = spec.layers * 2 * spec.hidden * (clips * branches * positions + text)
    return 2.0 * (weights + heads + cached)


def count_weights(spec: ModelSpec) -> int:
    """The number of the decoder's weights."""
    return sum(tensor.numel() for tensor in _fake_state_dict(spec).values())


def _fake_state_dict(spec: ModelSpec) -> dict[str, Tensor]:
    hidden = spec.hidden
    shapes: dict[str, tuple[int, ...]] = {
        "model.decoder.layer_norm.weight": (hidden,),
        "model.decoder.layer_norm.bias": (hidden,),
    }
    for k in range(spec.codebooks):
        shapes[f"lm_heads.{k}.weight"] = (spec.codebook_size, hidden)
        shapes[f"model.decoder.embed_tokens.{k}.weight"] = (spec.codebook_size + 1, hidden)
    for index in range(spec.layers):
        layer = f"model.decoder.layers.{index}"
        attentions = ["self_attn", *(["encoder_attn"] if spec.kind == "text" else [])]
        for attention in attentions:
            for projection in ("q_proj", "k_proj", "v_proj", "out_proj"):
                shapes[f"{layer}.{attention}.{projection}.weight"] = (hidden, hidden)
        for norm in (*(f"{attention}_layer_norm" for attention in attentions), "final_layer_norm"):
            shapes[f"{layer}.{norm}.weight"] = shapes[f"{layer}.{norm}.bias"] = (hidden,)
        shapes[f"{layer}.fc1.weight"], shapes[f"{layer}.fc2.weight"] = (spec.ffn, hidden), (hidden, spec.ffn)
    return {name: torch.empty(shape) for name, shape in shapes.items()}
