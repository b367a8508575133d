"""Converts the decoder of an audiocraft checkpoint: `best_state` of its state_dict.bin.

audiocraft stacks the queries, keys and values of an attention, and has its names from torch's transformer layer.
"""

import re
from collections.abc import Mapping

from musicgen.errors import ModelError
from musicgen.model.convert.audiocraft_settings import AudiocraftSettings
from musicgen.model.convert.converted import rename, rows
from musicgen.model.convert.pickles import Weights
from musicgen.model.convert.safetensors_file import Part
from musicgen.model.spec import Kind
from musicgen.model.spec_reader import WINDOW_S
from musicgen.patterns import step_indices
from musicgen.value_types import JsonObject

CONDITIONERS = "condition_provider.conditioners."

_DECODER = "decoder.model.decoder."
_LAYER = r"transformer\.layers\.(\d+)\."
_RULES = {
    r"emb\.(\d+)\.weight": rf"{_DECODER}embed_tokens.\1.weight",
    r"linears\.(\d+)\.weight": r"decoder.lm_heads.\1.weight",
    r"out_norm\.(weight|bias)": rf"{_DECODER}layer_norm.\1",
    _LAYER + r"self_attn\.(?:mha\.)?out_proj\.weight": rf"{_DECODER}layers.\1.self_attn.out_proj.weight",
    _LAYER + r"cross_attention\.(?:mha\.)?out_proj\.weight": rf"{_DECODER}layers.\1.encoder_attn.out_proj.weight",
    _LAYER + r"linear([12])\.weight": rf"{_DECODER}layers.\1.fc\2.weight",
    _LAYER + r"norm1\.(weight|bias)": rf"{_DECODER}layers.\1.self_attn_layer_norm.\2",
    _LAYER + r"norm_cross\.(weight|bias)": rf"{_DECODER}layers.\1.encoder_attn_layer_norm.\2",
    _LAYER + r"norm2\.(weight|bias)": rf"{_DECODER}layers.\1.final_layer_norm.\2",
    # The conditioners' projections to the decoder's width.
    re.escape(f"{CONDITIONERS}description.output_proj.") + "(weight|bias)": r"enc_to_dec_proj.\1",
    re.escape(f"{CONDITIONERS}self_wav.output_proj.") + "(weight|bias)": r"audio_enc_to_dec_proj.\1",
    re.escape(f"{CONDITIONERS}self_wav.chroma.spec.window"): "",  # a Hann window
}
_STACKED = re.compile(_LAYER + r"(self_attn|cross_attention)\.(?:mha\.)?in_proj_weight")
_ATTENTIONS = {"self_attn": "self_attn", "cross_attention": "encoder_attn"}
_DELAY_PATTERNS = {  # ours -> the name in a config, where a delay counts pairs of codebooks in a stereo model
    "parallel": "parallel",
    "delay": "delay",
    "partial_delay": "partial_delay",
    "stereo_delay": "delay",
    "stereo_partial_delay": "partial_delay",
}


def convert_decoder(weights: Weights, where: str) -> dict[str, list[Part]]:
    """Name the decoder's tensors and projections as transformers does. Raises `ModelError` for one that is unknown."""
    tensors: dict[str, list[Part]] = {}
    others = []
    for name in weights:
        if (match := _STACKED.fullmatch(name)) is None:
            others.append(name)
            continue
        layer, attention = f"{_DECODER}layers.{match[1]}", _ATTENTIONS[match[2]]
        for share, part in enumerate(("q_proj", "k_proj", "v_proj")):
            tensors[f"{layer}.{attention}.{part}.weight"] = rows(weights, name, share, 3)
    return tensors | rename(weights, others, _RULES, "", where)


def decoder_config(weights: Weights, settings: AudiocraftSettings, kind: Kind, frame_rate: float) -> JsonObject:
    """Return the section `decoder` of config.json. Raises `ModelError` for what the format cannot say."""
    _check_architecture(settings)
    codebooks = _count(weights, r"emb\.(\d+)\.weight", settings.where)
    rows_of_table, hidden = weights["emb.0.weight"].shape
    size = rows_of_table - 1  # the last row is the special token's
    channels = 2 if settings.get("interleave_stereo_codebooks.use") is True else 1
    settings.expect(interleave_stereo_codebooks__per_timestep=False)
    window_s = settings.number("dataset.segment_duration")
    config: JsonObject = {
        "model_type": "musicgen_decoder" if kind == "text" else "musicgen_melody_decoder",
        "activation_function": "gelu",
        "audio_channels": channels,
        "bos_token_id": size,
        "ffn_dim": weights["transformer.layers.0.linear1.weight"].shape[0],
        "hidden_size": hidden,
        # A window of less than the usual 30 s is said by the positions that it takes.
        "max_position_embeddings": 2048 if window_s >= WINDOW_S else round(window_s * frame_rate) + codebooks,
        "num_attention_heads": settings.integer("transformer_lm.num_heads"),
        "num_codebooks": codebooks,
        "num_hidden_layers": _count(weights, _LAYER + r"norm1\.weight", settings.where),
        "pad_token_id": size,
        "scale_embedding": False,
        "tie_word_embeddings": False,
        "vocab_size": size,
    }
    pattern = _pattern(settings, codebooks, channels)
    return config if pattern == "delay" else config | {"codebook_pattern": pattern}


def _check_architecture(settings: AudiocraftSettings) -> None:
    settings.expect(
        lm_model="transformer_lm",
        transformer_lm__activation="gelu",
        transformer_lm__norm="layer_norm",
        transformer_lm__norm_first=True,
        transformer_lm__causal=True,
        transformer_lm__positional_embedding="sin",
        transformer_lm__bias_proj=False,
        transformer_lm__bias_ff=False,
        transformer_lm__bias_attn=False,
        transformer_lm__layer_scale=None,
        transformer_lm__past_context=None,
        transformer_lm__qk_layer_norm=False,
        transformer_lm__qk_layer_norm_cross=False,
        transformer_lm__kv_repeat=1,
    )


def _count(weights: Mapping[str, object], pattern: str, where: str) -> int:
    """Count the numbers 0, 1, 2 ... in the names that match. Raises `ModelError` if there are none, or gaps."""
    numbers = sorted(int(match[1]) for name in weights if (match := re.fullmatch(pattern, name)))
    if not numbers or numbers != list(range(len(numbers))):
        raise ModelError(f"{where}: lacks tensors of a decoder; it is no MusicGen of audiocraft")
    return len(numbers)


def _pattern(settings: AudiocraftSettings, codebooks: int, channels: int) -> str:
    """Return the codebook pattern as a config names it."""
    modeling = settings.get("codebooks_pattern.modeling")
    if modeling == "parallel":
        return "parallel"
    if modeling != "delay":
        raise ModelError(f"{settings.where}: the codebook pattern {modeling!r} cannot be converted")
    settings.expect(codebooks_pattern__delay__flatten_first=0, codebooks_pattern__delay__empty_initial=0)
    delays = settings.integers("codebooks_pattern.delay.delays")
    for ours, name in _DELAY_PATTERNS.items():
        if (
            ours.startswith("stereo_") == (channels == 2 and ours != "parallel")
            and (step_indices(ours, codebooks, 1)[:, 0] - 1).tolist() == delays
        ):
            return name
    raise ModelError(f"{settings.where}: a codebook pattern with the delays {delays} cannot be converted")
