"""Converts the codec of an audiocraft checkpoint, compression_state_dict.bin: an EnCodec, or a published one's name."""

import math
from pathlib import Path

from musicgen.errors import ModelError
from musicgen.model.convert.audiocraft_settings import AudiocraftSettings
from musicgen.model.convert.converted import read_config, rename, whole
from musicgen.model.convert.pickles import Weights, open_weights
from musicgen.model.convert.safetensors_file import Part
from musicgen.value_types import JsonObject

PREFIX = "audio_encoder."
# audiocraft wraps each convolution twice; the numbers of the layers are the same.
_RULES = {
    r"(encoder|decoder)\.model\.(\d+)\.conv\.(conv|norm)\.(.+)": r"\1.layers.\2.\3.\4",
    r"(encoder|decoder)\.model\.(\d+)\.convtr\.convtr\.(.+)": r"\1.layers.\2.conv.\3",
    r"(encoder|decoder)\.model\.(\d+)\.convtr\.norm\.(.+)": r"\1.layers.\2.norm.\3",
    r"(encoder|decoder)\.model\.(\d+)\.block\.(\d+)\.conv\.(conv|norm)\.(.+)": r"\1.layers.\2.block.\3.\4.\5",
    r"(encoder|decoder)\.model\.(\d+)\.shortcut\.conv\.(conv|norm)\.(.+)": r"\1.layers.\2.shortcut.\3.\4",
    r"(encoder|decoder)\.model\.(\d+)\.lstm\.(.+)": r"\1.layers.\2.lstm.\3",
    r"quantizer\.vq\.layers\.(\d+)\._codebook\.(\w+)": r"quantizer.layers.\1.codebook.\2",
}


def convert_codec(weights: Weights, where: str) -> dict[str, list[Part]]:
    """Name an audiocraft EnCodec's tensors as transformers does. Raises `ModelError` for one that is unknown."""
    return rename(weights, weights, _RULES, PREFIX, where)


def codec_config(settings: AudiocraftSettings) -> JsonObject:
    """Return the section `audio_encoder` of config.json for an audiocraft EnCodec. Raises `ModelError`."""
    settings.expect(
        compression_model="encodec",
        encodec__autoencoder="seanet",
        encodec__quantizer="rvq",
        encodec__renormalize=False,
        encodec__causal=False,
        seanet__activation="ELU",
        seanet__activation_params={"alpha": 1.0},
        seanet__disable_norm_outer_blocks=0,
        seanet__encoder={},
        seanet__decoder__final_activation=None,
        seanet__decoder__trim_right_ratio=1.0,
    )
    sample_rate, ratios = settings.integer("encodec.sample_rate"), settings.integers("seanet.ratios")
    codebooks, size = settings.integer("rvq.n_q"), settings.integer("rvq.bins")
    dimension = settings.integer("seanet.dimension")
    return {
        "model_type": "encodec",
        "audio_channels": settings.integer("encodec.channels"),
        "chunk_length_s": None,
        "codebook_dim": dimension,
        "codebook_size": size,
        "compress": settings.integer("seanet.compress"),
        "dilation_growth_rate": settings.integer("seanet.dilation_base"),
        "hidden_size": dimension,
        "kernel_size": settings.integer("seanet.kernel_size"),
        "last_kernel_size": settings.integer("seanet.last_kernel_size"),
        "norm_type": settings.get("seanet.norm"),
        "normalize": False,
        "num_filters": settings.integer("seanet.n_filters"),
        "num_lstm_layers": settings.integer("seanet.lstm"),
        "num_residual_layers": settings.integer("seanet.n_residual_layers"),
        "overlap": None,
        "pad_mode": settings.get("seanet.pad_mode"),
        "residual_kernel_size": settings.integer("seanet.residual_kernel_size"),
        "sampling_rate": sample_rate,
        # The bandwidth, in kbit/s, that takes all codebooks.
        "target_bandwidths": [codebooks * sample_rate / math.prod(ratios) * math.log2(size) / 1000],
        "trim_right_ratio": 1.0,
        "upsampling_ratios": ratios,
        "use_causal_conv": False,
        "use_conv_shortcut": not settings.get("seanet.true_skip"),
    }


def published_codec(folder: Path) -> tuple[dict[str, list[Part]], JsonObject]:
    """Return the tensors and the config of an EnCodec in transformers' format. Raises `ModelError`."""
    config = read_config(folder)
    if config.get("model_type") != "encodec":
        raise ModelError(f"{folder}: its model_type is {config.get('model_type')!r}; the codec must be an encodec")
    for key in ("sampling_rate", "upsampling_ratios"):
        if key not in config:
            raise ModelError(f"{folder}/config.json: lacks the key {key!r}")
    weights = open_weights(folder)
    return {PREFIX + name: whole(weights, name) for name in weights}, config
