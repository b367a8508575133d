"""Converts the style conditioner of an audiocraft checkpoint to the names of musicgen/conditioning/style.py.

Its feature encoder (MERT) is not in the checkpoint; it is taken from a folder of its own.
"""

import re
from pathlib import Path

from musicgen.errors import ModelError
from musicgen.model.convert.audiocraft_decoder import CONDITIONERS
from musicgen.model.convert.audiocraft_settings import AudiocraftSettings
from musicgen.model.convert.converted import read_config, rename
from musicgen.model.convert.pickles import Weights, open_weights
from musicgen.model.convert.safetensors_file import Part
from musicgen.value_types import JsonObject

PREFIX = f"{CONDITIONERS}self_wav."
_HEADS = {"xsmall": 8, "default": 8, "large": 16}  # by `transformer_scale`
_CODEBOOK = re.compile(r"rvq\.vq\.layers\.(\d+)\._codebook\.embed")
_LAYER = r"transformer\.layers\.(\d+)\."
_RULES = {
    r"embed\.(weight|bias)": r"style.embed.\1",
    _LAYER + r"self_attn\.(?:mha\.)?in_proj_weight": r"style.layers.\1.in_proj.weight",
    _LAYER + r"self_attn\.(?:mha\.)?out_proj\.weight": r"style.layers.\1.out_proj.weight",
    _LAYER + r"linear([12])\.weight": r"style.layers.\1.linear\2.weight",
    _LAYER + r"norm([12])\.(weight|bias)": r"style.layers.\1.norm\2.\3",
    r"batch_norm\.running_mean": "style.norm.mean",
    r"batch_norm\.running_var": "style.norm.variance",
    r"batch_norm\.num_batches_tracked": "",
    r"rvq\.vq\.layers\.\d+\._codebook\.(inited|cluster_size|embed_avg)": "",  # the state of training
    r"output_proj\.(weight|bias)": r"style.output.\1",
}
# Weight norm is stored under its old or its new names.
_FEATURE_RULES = {
    r"(?:\w+\.)?(encoder\.pos_conv_embed\.conv\.)weight_g": r"\1parametrizations.weight.original0",
    r"(?:\w+\.)?(encoder\.pos_conv_embed\.conv\.)weight_v": r"\1parametrizations.weight.original1",
    r"(?:\w+\.)?masked_spec_embed": "",  # of training
    r"(?:hubert\.|mert_model\.)?((?:feature_extractor|feature_projection|encoder)\..+)": r"\1",
}
# The keys of transformers' HubertConfig that shape the network.
_FEATURE_KEYS = (
    "activation_dropout", "attention_dropout", "conv_bias", "conv_dim", "conv_kernel", "conv_pos_batch_norm",
    "conv_stride", "do_stable_layer_norm", "feat_extract_activation", "feat_extract_norm", "feat_proj_dropout",
    "feat_proj_layer_norm", "hidden_act", "hidden_dropout", "hidden_size", "intermediate_size", "layer_norm_eps",
    "layerdrop", "num_attention_heads", "num_conv_pos_embedding_groups", "num_conv_pos_embeddings",
    "num_hidden_layers",
)  # fmt: skip


def convert_style(weights: Weights, where: str) -> dict[str, list[Part]]:
    """Name the conditioner's tensors, whose prefix is cut off already. Raises `ModelError` for one that is unknown."""
    books = sorted((int(match[1]), name) for name in weights if (match := _CODEBOOK.fullmatch(name)))
    if not books:
        raise ModelError(f"{where}: the style conditioner has no codebooks; it cannot be converted")
    others = [name for name in weights if not _CODEBOOK.fullmatch(name)]
    tensors = rename(weights, others, _RULES, "", where)
    tensors["style.codebooks"] = [lambda name=name: weights[name] for _, name in books]  # type: ignore[misc]
    return tensors


def convert_features(folder: Path) -> tuple[dict[str, list[Part]], JsonObject]:
    """Return the feature encoder's tensors, and its config as a HubertConfig. Raises `ModelError`."""
    config = read_config(folder)
    for key in ("feature_extractor_cqt", "deepnorm"):
        if config.get(key):
            raise ModelError(f"{folder}: a feature encoder with {key} cannot be converted; use MERT-v1-95M")
    if config.get("attention_relax", -1.0) > 0:
        raise ModelError(f"{folder}: a feature encoder with attention_relax cannot be converted; use MERT-v1-95M")
    features = {key: config[key] for key in _FEATURE_KEYS if key in config}
    weights = open_weights(folder)
    tensors = rename(weights, weights, _FEATURE_RULES, "style.features.", str(folder))
    return tensors, features | {"mask_time_prob": 0.0, "mask_feature_prob": 0.0}


def style_config(weights: Weights, settings: AudiocraftSettings, features: JsonObject) -> JsonObject:
    """Return the section `conditioner` of config.json. Raises `ModelError` for what it cannot say."""
    style = "conditioners.self_wav.style"
    settings.expect(conditioners__self_wav__style__model_name="mert", conditioners__self_wav__style__batch_norm=True)
    scale = settings.get(f"{style}.transformer_scale", "default")
    if scale not in _HEADS:
        raise ModelError(f"{settings.where}: {style}.transformer_scale {scale!r} cannot be converted")
    codebooks = [name for name in weights if _CODEBOOK.fullmatch(name)]
    return {
        "features": features,
        "sample_rate": 24_000,
        "dim": weights["embed.weight"].shape[0],
        "layers": sum(name.endswith("norm1.weight") for name in weights),
        "heads": _HEADS[str(scale)],
        "quantizers": len(codebooks),
        "used_quantizers": settings.integer(f"{style}.eval_q"),
        "bins": weights[codebooks[0]].shape[0],
        "downsample": settings.integer(f"{style}.ds_factor"),
        "excerpt_s": settings.number(f"{style}.length"),
    }
