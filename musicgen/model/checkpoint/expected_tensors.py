"""Compares a checkpoint's tensors with what its config says, from the headers alone, so that planning finds faults.

Decoder and projections are compared here. Text encoder and codec are transformers' modules; they compare their own
tensors when they are loaded.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path

from musicgen.errors import ModelError
from musicgen.model.checkpoint.weights import TensorInfo
from musicgen.model.spec import ModelSpec

Shape = tuple[int, ...]


def check_tensors(spec: ModelSpec, headers: Mapping[str, TensorInfo], folder: Path) -> None:
    """Raise `ModelError` for the first tensor that is missing, of another shape than `spec` says, or unexpected."""
    for name, shape in _expected_shapes(spec):
        if name not in headers:
            raise ModelError(f"{folder}: lacks the tensor {name}; it is not a whole MusicGen checkpoint of its config")
        if headers[name].shape != shape:
            raise ModelError(
                f"{folder}: {name} has the shape {headers[name].shape}, its config says {shape}; config.json and "
                "weights do not belong together"
            )
    cross_attention = f"{_layer(0)}.encoder_attn.q_proj.weight"
    if spec.kind != "text" and cross_attention in headers:
        raise ModelError(f"{folder}: the decoder has cross-attention, which is wrong for a {spec.kind} model")


def _expected_shapes(spec: ModelSpec) -> Iterator[tuple[str, Shape]]:
    square, vector = (spec.hidden, spec.hidden), (spec.hidden,)
    for codebook in range(spec.codebooks):
        yield f"decoder.model.decoder.embed_tokens.{codebook}.weight", (spec.codebook_size + 1, spec.hidden)
        yield f"decoder.lm_heads.{codebook}.weight", (spec.codebook_size, spec.hidden)
    attentions = ("self_attn", "encoder_attn") if spec.kind == "text" else ("self_attn",)
    for index in range(spec.layers):
        layer = _layer(index)
        for attention in attentions:
            for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
                yield f"{layer}.{attention}.{part}.weight", square
        yield f"{layer}.fc1.weight", (spec.ffn, spec.hidden)
        yield f"{layer}.fc2.weight", (spec.hidden, spec.ffn)
        for norm in (*(f"{attention}_layer_norm" for attention in attentions), "final_layer_norm"):
            yield from _norm(f"{layer}.{norm}", vector)
    yield from _norm("decoder.model.decoder.layer_norm", vector)
    if spec.text_projection:
        yield from _linear("enc_to_dec_proj", spec.text_dim, spec.hidden)
    if spec.chroma_projection:
        yield from _linear("audio_enc_to_dec_proj", spec.chroma_bins, spec.hidden)


def _layer(index: int) -> str:
    return f"decoder.model.decoder.layers.{index}"


def _norm(name: str, shape: Shape) -> Iterator[tuple[str, Shape]]:
    yield f"{name}.weight", shape
    yield f"{name}.bias", shape


def _linear(name: str, inputs: int, outputs: int) -> Iterator[tuple[str, Shape]]:
    yield f"{name}.weight", (outputs, inputs)
    yield f"{name}.bias", (outputs,)
