"""Reads a checkpoint's `config.json`, without torch.

The format is that of transformers' `MusicgenConfig` and `MusicgenMelodyConfig`: three nested configs, `text_encoder`
(T5, or CLAP), `audio_encoder` (EnCodec) and `decoder`. Ours, and optional: `decoder.codebook_pattern` (a name of
`musicgen.patterns`), `conditioner` (the settings of a style conditioner), and in `audio_encoder` the model type
`spectral_rvq` (see `musicgen.model.codec.spectral_settings`). `decoder.scale_embedding` is ignored, as transformers and
audiocraft do: embeddings are never scaled.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

from musicgen.errors import ModelError
from musicgen.model.spec import CODECS, KINDS, Kind, ModelSpec
from musicgen.patterns import canonical_name

ACTIVATION = "gelu"  # of the feed-forward layers; the kernels compute no other
MAX_HEAD_DIM = 256  # the widest head of the attention kernels; the released checkpoints have 64
WINDOW_S = 30.0  # the segments that every released checkpoint was trained on (Copet et al. 2023, section 3)


def read_spec(folder: Path) -> ModelSpec:
    """Read the spec of the checkpoint in `folder`.

    Raises `ModelError`: no or bad `config.json`, unsupported kind, missing key.
    """
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelError(
            f"{folder}: no config.json; a checkpoint is a folder in the published Hugging Face format"
        ) from None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ModelError(f"{path}: cannot be read as JSON ({error}); download it again") from None
    if not isinstance(config, dict):
        raise ModelError(f"{path}: not a JSON object; download it again")
    return parse_spec(config, str(path))


def parse_spec(config: Mapping[str, object], where: str = "config.json") -> ModelSpec:
    """Parse the spec of a loaded `config.json`; `where` names it in errors. Raises `ModelError`."""
    model_type = config.get("model_type")
    if not isinstance(model_type, str) or model_type not in KINDS:
        raise ModelError(f"{where}: model_type {model_type!r} is not MusicGen; supported are {', '.join(KINDS)}")
    kind = KINDS[model_type]
    decoder, codec, text = (_read_section(config, name, where) for name in ("decoder", "audio_encoder", "text_encoder"))
    codec_type = _read_codec_type(codec, where)
    hidden, heads = _read_heads(decoder, where)
    channels, codebooks = _read_channels(decoder, where)
    codebook_size = _read_codebook_size(decoder, codec, where)
    sample_rate = _read_integer(codec, "sampling_rate", where)
    frame_rate = sample_rate / _hop_length(codec, codec_type, where)
    text_encoder, text_dim = _text_encoder(text, where)
    max_positions = _read_integer(decoder, "max_position_embeddings", where, 2048)
    chroma_bins = _read_integer(config, "num_chroma", where, 12) if kind == "melody" else 0
    _check_activation(decoder, where)
    return ModelSpec(
        kind=kind,
        sample_rate=sample_rate,
        frame_rate=frame_rate,
        channels=channels,
        codebooks=codebooks,
        codebook_size=codebook_size,
        max_frames=max(1, min(round(WINDOW_S * frame_rate), max_positions - codebooks)),
        layers=_read_integer(decoder, "num_hidden_layers", where),
        hidden=hidden,
        heads=heads,
        ffn=_read_integer(decoder, "ffn_dim", where),
        pattern=_read_pattern(decoder, where),
        max_positions=max_positions,
        text_encoder=text_encoder,
        text_dim=text_dim,
        text_projection=_has_text_projection(kind, decoder, text_dim, hidden),
        chroma_bins=chroma_bins,
        chroma_length=_read_integer(config, "chroma_length", where, 235) if kind == "melody" else 0,
        chroma_projection=kind == "melody" and chroma_bins != hidden,
        text_length=_read_integer(config, "text_length", where)
        if kind == "melody" and config.get("text_length")
        else 0,
        conditioner=_read_optional_section(config, "conditioner"),
        codec=codec_type,
    )


def _read_codec_type(codec: Mapping[str, object], where: str) -> str:
    codec_type = codec.get("model_type", "encodec")
    if not isinstance(codec_type, str) or codec_type not in CODECS:
        raise ModelError(
            f"{where}: audio_encoder.model_type {codec_type!r} is not supported; it must be one of {', '.join(CODECS)}"
        )
    if codec.get("normalize") or codec.get("chunk_length_s"):
        raise ModelError(
            f"{where}: an EnCodec with normalize or chunk_length_s cannot serve MusicGen; use the 32 kHz kind"
        )
    return codec_type


def _read_heads(decoder: Mapping[str, object], where: str) -> tuple[int, int]:
    """Return the decoder's width and its number of attention heads."""
    hidden, heads = _read_integer(decoder, "hidden_size", where), _read_integer(decoder, "num_attention_heads", where)
    if hidden % heads or (hidden // heads) % 2:
        raise ModelError(f"{where}: decoder.hidden_size {hidden} does not split into {heads} heads of even width")
    if hidden // heads > MAX_HEAD_DIM:
        raise ModelError(
            f"{where}: heads of width {hidden // heads} (decoder.hidden_size {hidden} / {heads}) are not supported; "
            f"at most {MAX_HEAD_DIM} are"
        )
    return hidden, heads


def _check_activation(decoder: Mapping[str, object], where: str) -> None:
    activation = decoder.get("activation_function", ACTIVATION)
    if activation != ACTIVATION:
        raise ModelError(
            f"{where}: decoder.activation_function {activation!r} is not supported; it must be {ACTIVATION}, as in "
            "every released checkpoint"
        )


def _has_text_projection(kind: Kind, decoder: Mapping[str, object], text_dim: int, hidden: int) -> bool:
    """Whether the text states are projected, as transformers decides it: where the widths differ.

    Style checkpoints are of our own format, in which the projection is always there, as in audiocraft.
    """
    if kind == "style":
        return True
    return text_dim != hidden and (kind == "melody" or decoder.get("cross_attention_hidden_size") is None)


def _read_channels(decoder: Mapping[str, object], where: str) -> tuple[int, int]:
    """Return the audio channels and the codebooks of all channels."""
    channels = _read_integer(decoder, "audio_channels", where, 1)
    codebooks = _read_integer(decoder, "num_codebooks", where)
    if channels not in (1, 2) or codebooks % channels:
        supported = "supported are 1, or 2 that share them evenly"
        raise ModelError(f"{where}: {channels} audio channels with {codebooks} codebooks; {supported}")
    return channels, codebooks


def _read_codebook_size(decoder: Mapping[str, object], codec: Mapping[str, object], where: str) -> int:
    size, codec_size = _read_integer(decoder, "vocab_size", where), _read_integer(codec, "codebook_size", where)
    if size != codec_size:
        raise ModelError(f"{where}: decoder.vocab_size {size} and audio_encoder.codebook_size {codec_size} differ")
    return size


def _hop_length(codec: Mapping[str, object], codec_type: str, where: str) -> int:
    """Return the samples per frame."""
    if codec_type == "spectral_rvq":
        return _read_integer(codec, "hop_length", where)
    ratios = codec.get("upsampling_ratios") or _raise_missing("audio_encoder.upsampling_ratios", where)
    if not isinstance(ratios, list) or not all(isinstance(ratio, int) for ratio in ratios):
        raise ModelError(f"{where}: audio_encoder.upsampling_ratios is {ratios!r}; it must be a list of integers")
    return math.prod(ratios)


def _read_pattern(decoder: Mapping[str, object], where: str) -> str:
    try:
        return canonical_name(str(decoder.get("codebook_pattern") or "delay"))
    except ValueError as error:
        raise ModelError(f"{where}: decoder.codebook_pattern: {error}") from None


def _text_encoder(text: Mapping[str, object], where: str) -> tuple[str, int]:
    kind = text.get("model_type", "t5")
    if kind == "t5":
        return "t5", _read_integer(text, "d_model", where)
    if kind == "clap":
        return "clap", _read_integer(text, "projection_dim", where, 512)
    raise ModelError(
        f"{where}: text_encoder.model_type {kind!r} is not supported; it must be t5 (FLAN-T5 is one) or clap"
    )


def _read_section(config: Mapping[str, object], name: str, where: str) -> Mapping[str, object]:
    section = config.get(name)
    if not isinstance(section, Mapping):
        raise ModelError(
            f"{where}: lacks the section {name!r}; a checkpoint nests text_encoder, audio_encoder and decoder"
        )
    return section


def _read_optional_section(config: Mapping[str, object], name: str) -> dict[str, object]:
    section = config.get(name)
    return dict(section) if isinstance(section, Mapping) else {}


def _read_integer(section: Mapping[str, object], name: str, where: str, default: int | None = None) -> int:
    value = section.get(name)
    if value is None:
        value = default if default is not None else _raise_missing(name, where)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ModelError(f"{where}: {name} is {value!r}; it must be a positive integer")
    return value


def _raise_missing(name: str, where: str) -> NoReturn:
    raise ModelError(f"{where}: lacks the key {name!r}; download the checkpoint's config.json again")
