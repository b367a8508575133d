"""Specs of the released checkpoints' configurations, and of wrong ones."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from musicgen.errors import ModelError
from musicgen.model.spec_reader import parse_spec, read_spec

T5 = {
    "model_type": "t5",
    "d_model": 768,
    "d_ff": 3072,
    "d_kv": 64,
    "num_layers": 12,
    "num_heads": 12,
    "vocab_size": 32128,
}
ENCODEC = {
    "model_type": "encodec",
    "audio_channels": 1,
    "chunk_length_s": None,
    "codebook_dim": 128,
    "codebook_size": 2048,
    "hidden_size": 128,
    "normalize": False,
    "num_filters": 64,
    "overlap": None,
    "sampling_rate": 32000,
    "target_bandwidths": [2.2],
    "upsampling_ratios": [8, 5, 4, 4],
    "use_causal_conv": False,
}


def published(hidden: int, heads: int, layers: int, melody: bool = False, stereo: bool = False) -> dict[str, Any]:
    """A configuration as the released checkpoints have it."""
    decoder = {
        "model_type": "musicgen_melody_decoder" if melody else "musicgen_decoder",
        "activation_function": "gelu",
        "ffn_dim": 4 * hidden,
        "hidden_size": hidden,
        "max_position_embeddings": 2048,
        "num_attention_heads": heads,
        "num_codebooks": 8 if stereo else 4,
        "num_hidden_layers": layers,
        "pad_token_id": 2048,
        "scale_embedding": False,
        "vocab_size": 2048,
    }
    if stereo or melody:  # the first mono checkpoints were saved before the key existed
        decoder["audio_channels"] = 2 if stereo else 1
    config = {
        "model_type": "musicgen_melody" if melody else "musicgen",
        "decoder": decoder,
        "audio_encoder": ENCODEC,
        "text_encoder": T5,
    }
    return copy.deepcopy(config | ({"num_chroma": 12, "chroma_length": 235} if melody else {}))


@pytest.mark.parametrize(
    ("sizes", "melody", "stereo", "controls"),
    [
        ((1024, 16, 24), False, False, ()),
        ((1536, 24, 48), False, False, ()),
        ((2048, 32, 48), False, False, ()),
        ((1536, 24, 48), True, False, ("melody",)),
        ((1024, 16, 24), False, True, ("stereo",)),
        ((2048, 32, 48), True, True, ("melody", "stereo")),
    ],
)
def test_released_configurations(
    sizes: tuple[int, int, int], melody: bool, stereo: bool, controls: tuple[str, ...]
) -> None:
    spec = parse_spec(published(*sizes, melody=melody, stereo=stereo))
    assert (spec.hidden, spec.heads, spec.layers, spec.ffn) == (*sizes, 4 * sizes[0])
    assert spec.head_dim == 64
    assert (spec.sample_rate, spec.frame_rate, spec.max_frames) == (32000, 50.0, 1500)
    assert (spec.codebooks, spec.codebook_size, spec.special_token) == (8 if stereo else 4, 2048, 2048)
    assert (spec.text_encoder, spec.text_dim, spec.text_projection) == ("t5", 768, True)
    assert (spec.chroma_bins, spec.chroma_length) == ((12, 235) if melody else (0, 0))
    assert spec.controls == ("text", "unconditional", "long", "continuation", *controls)


def test_no_projection_where_the_widths_agree() -> None:
    assert not parse_spec(published(768, 12, 2)).text_projection
    assert not parse_spec(published(768, 12, 2, melody=True)).text_projection
    assert parse_spec(published(768, 12, 2, melody=True) | {"model_type": "musicgen_style"}).text_projection
    melody = published(768, 12, 2, melody=True)
    assert parse_spec(melody).chroma_projection
    assert not parse_spec(melody | {"num_chroma": 768}).chroma_projection


def test_pattern_and_clap_are_configuration() -> None:
    config = published(64, 4, 2)
    config["decoder"]["codebook_pattern"] = "parallel"
    config["text_encoder"] = {"model_type": "clap", "projection_dim": 512, "text_config": {}}
    spec = parse_spec(config)
    assert (spec.pattern, spec.text_encoder, spec.text_dim) == ("parallel", "clap", 512)
    config["decoder"]["codebook_pattern"] = "unroll"  # audiocraft's name
    assert parse_spec(config).pattern == "flattening"


def test_the_spectral_codec_has_a_hop() -> None:
    config = published(64, 4, 2, melody=True)
    config["audio_encoder"] = {
        "model_type": "spectral_rvq",
        "sampling_rate": 16000,
        "hop_length": 320,
        "codebook_size": 2048,
    }
    config["decoder"]["max_position_embeddings"] = 504
    config["chroma_length"] = 79
    spec = parse_spec(config)
    assert (spec.codec, spec.sample_rate, spec.frame_rate, spec.max_frames, spec.chroma_length) == (
        "spectral_rvq",
        16000,
        50.0,
        500,
        79,
    )
    assert parse_spec(published(64, 4, 2)).codec == "encodec"
    del config["audio_encoder"]["hop_length"]
    with pytest.raises(ModelError, match="lacks the key 'hop_length'"):
        parse_spec(config)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("model_type",), "llama", "model_type 'llama' is not MusicGen"),
        (("decoder",), None, "lacks the section 'decoder'"),
        (("decoder", "hidden_size"), None, "lacks the key 'hidden_size'"),
        (("decoder", "num_hidden_layers"), 0, "num_hidden_layers is 0"),
        (("decoder", "num_attention_heads"), 7, "does not split into 7 heads"),
        (("decoder", "hidden_size"), 4 * 258, "heads of width 258 .* not supported"),
        (("decoder", "vocab_size"), 1024, "differ"),
        (("decoder", "activation_function"), "relu", "activation_function 'relu' is not supported"),
        (("decoder", "audio_channels"), 3, "3 audio channels"),
        (("decoder", "codebook_pattern"), "spiral", "unknown codebook pattern 'spiral'; known are delay"),
        (("audio_encoder", "model_type"), "dac", "'dac' is not supported"),
        (("audio_encoder", "normalize"), True, "cannot serve MusicGen"),
        (("audio_encoder", "upsampling_ratios"), None, "lacks the key 'audio_encoder.upsampling_ratios'"),
        (("text_encoder", "model_type"), "bert", "'bert' is not supported"),
    ],
)
def test_wrong_configurations_say_what_is_wrong(path: tuple[str, ...], value: Any, message: str) -> None:
    config = published(64, 4, 2)
    section = config
    for name in path[:-1]:
        section = section[name]
    section[path[-1]] = value
    with pytest.raises(ModelError, match=f"somewhere.*{message}"):
        parse_spec(config, "somewhere")


def test_unreadable_configuration(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no config\.json"):
        read_spec(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ModelError, match="cannot be read as JSON"):
        read_spec(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps([1]))
    with pytest.raises(ModelError, match="not a JSON object"):
        read_spec(tmp_path)
