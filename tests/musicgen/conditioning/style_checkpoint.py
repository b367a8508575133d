"""A random style checkpoint in the format of musicgen/conditioning/style.py, made from a random melody checkpoint."""

import json
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from musicgen.conditioning.style import StyleNetwork, StyleSettings
from tests.fixtures.audiocraft_checkpoint import small_settings
from tests.fixtures.checkpoints import MELODY, write_checkpoint

SETTINGS = StyleSettings(
    features={
        "hidden_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 48,
        "conv_dim": [16] * 7,
        "num_conv_pos_embeddings": 8,
        "num_conv_pos_embedding_groups": 2,
        "mask_time_prob": 0.0,
    },
    dim=16,
    layers=2,
    heads=2,
    quantizers=4,
    used_quantizers=3,
    bins=32,
    guidance_beta=5.0,
)


def write_style_checkpoint(folder: Path, seed: int = 0, heads: int = SETTINGS.heads) -> Path:
    """Write it into `folder`; its window is 4 s. `heads` are those of the conditioner's transformer."""
    settings = SETTINGS.model_copy(update={"heads": heads})
    write_checkpoint(folder, replace(MELODY, max_positions=204), seed=seed)
    config = json.loads((folder / "config.json").read_text())
    config["model_type"] = "musicgen_style"
    config["conditioner"] = settings.model_dump()
    for name in ("num_chroma", "chroma_length"):
        config.pop(name)
    (folder / "config.json").write_text(json.dumps(config))
    tensors = {
        name: value for name, value in load_file(folder / "model.safetensors").items() if "audio_enc_to_dec" not in name
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = StyleNetwork(settings, config["decoder"]["hidden_size"])
        for buffer in (network.codebooks, network.norm.mean):
            buffer.normal_()
        network.norm.variance.uniform_(0.5, 2.0)
        with torch.no_grad():
            network.output.weight.normal_()
    state = {f"style.{name}": value.clone().contiguous() for name, value in network.state_dict().items()}
    save_file(tensors | state, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def write_audiocraft_style(folder: Path, parent: Path) -> tuple[Path, Path]:
    """Write a style checkpoint as audiocraft would, and its feature encoder as MERT is published; returns both."""
    tensors = load_file(folder / "model.safetensors")
    state: dict[str, torch.Tensor] = {}
    for index in range(2):
        ours, theirs = f"decoder.model.decoder.layers.{index}.", f"transformer.layers.{index}."
        stacked = [tensors[f"{ours}self_attn.{part}_proj.weight"] for part in "qkv"]
        state[f"{theirs}self_attn.in_proj_weight"] = torch.cat(stacked)
        state[f"{theirs}self_attn.out_proj.weight"] = tensors[f"{ours}self_attn.out_proj.weight"]
        for number in "12":
            state[f"{theirs}linear{number}.weight"] = tensors[f"{ours}fc{number}.weight"]
        for part in ("weight", "bias"):
            state[f"{theirs}norm1.{part}"] = tensors[f"{ours}self_attn_layer_norm.{part}"]
            state[f"{theirs}norm2.{part}"] = tensors[f"{ours}final_layer_norm.{part}"]
    for codebook in range(4):
        state[f"emb.{codebook}.weight"] = tensors[f"decoder.model.decoder.embed_tokens.{codebook}.weight"]
        state[f"linears.{codebook}.weight"] = tensors[f"decoder.lm_heads.{codebook}.weight"]
    sound = "condition_provider.conditioners.self_wav."
    for part in ("weight", "bias"):
        state[f"out_norm.{part}"] = tensors[f"decoder.model.decoder.layer_norm.{part}"]
        description = f"condition_provider.conditioners.description.output_proj.{part}"
        state[description] = tensors[f"enc_to_dec_proj.{part}"]
        state[f"{sound}output_proj.{part}"] = tensors[f"style.output.{part}"]
        state[f"{sound}embed.{part}"] = tensors[f"style.embed.{part}"]
    for index in range(SETTINGS.layers):
        ours, theirs = f"style.layers.{index}.", f"{sound}transformer.layers.{index}."
        state[f"{theirs}self_attn.in_proj_weight"] = tensors[f"{ours}in_proj.weight"]
        state[f"{theirs}self_attn.out_proj.weight"] = tensors[f"{ours}out_proj.weight"]
        for number in "12":
            state[f"{theirs}linear{number}.weight"] = tensors[f"{ours}linear{number}.weight"]
            for part in ("weight", "bias"):
                state[f"{theirs}norm{number}.{part}"] = tensors[f"{ours}norm{number}.{part}"]
    state[f"{sound}batch_norm.running_mean"] = tensors["style.norm.mean"]
    state[f"{sound}batch_norm.running_var"] = tensors["style.norm.variance"]
    state[f"{sound}batch_norm.num_batches_tracked"] = torch.tensor(7)
    for index, book in enumerate(tensors["style.codebooks"]):
        for name, tensor in (
            ("embed", book),
            ("embed_avg", book),
            ("cluster_size", book[:, 0]),
            ("inited", book[0, 0]),
        ):
            state[f"{sound}rvq.vq.layers.{index}._codebook.{name}"] = tensor.clone()
    text = small_settings(sound=_STYLE_SETTINGS).replace("segment_duration: 30", "segment_duration: 4")
    source = parent / "audiocraft"
    source.mkdir()
    torch.save({"best_state": state, "xp.cfg": text, "version": "1.3.0", "exported": True}, source / "state_dict.bin")
    torch.save({"pretrained": "facebook/encodec_32khz"}, source / "compression_state_dict.bin")
    return source, _write_mert(tensors, parent / "mert")


_STYLE_SETTINGS = """self_wav:
    model: style
    style: {model_name: mert, transformer_scale: default, sample_rate: '${sample_rate}', length: 3.0, ds_factor: 15,
      n_q_out: 4, eval_q: 3, q_dropout: true, bins: 32, varying_lengths: [1.5, 4.5], batch_norm: true}"""


def _write_mert(tensors: dict[str, torch.Tensor], folder: Path) -> Path:
    """Write the feature encoder as a pickle, with weight norm's old names."""
    folder.mkdir()
    own = {
        name.removeprefix("style.features."): tensor
        for name, tensor in tensors.items()
        if name.startswith("style.features.")
    }
    old = {"original0": "weight_g", "original1": "weight_v"}
    for new, name in old.items():
        own[f"encoder.pos_conv_embed.conv.{name}"] = own.pop(
            f"encoder.pos_conv_embed.conv.parametrizations.weight.{new}"
        )
    own["masked_spec_embed"] = torch.zeros(24)
    torch.save(own, folder / "pytorch_model.bin")
    more = {"model_type": "mert_model", "feature_extractor_cqt": False, "deepnorm": False, "attention_relax": -1.0}
    (folder / "config.json").write_text(json.dumps(SETTINGS.features | more | {"mask_time_prob": 0.05}))
    return folder
