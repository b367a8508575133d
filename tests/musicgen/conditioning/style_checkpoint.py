"""A random style checkpoint in the format of musicgen/conditioning/style.py, made from a random melody checkpoint."""

import json
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from musicgen.conditioning.style import StyleNetwork, StyleSettings
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


def write_style_checkpoint(folder: Path, seed: int = 0) -> Path:
    """Write it into `folder`; its window is 4 s."""
    write_checkpoint(folder, replace(MELODY, max_positions=204), seed=seed)
    config = json.loads((folder / "config.json").read_text())
    config["model_type"] = "musicgen_style"
    config["conditioner"] = SETTINGS.model_dump()
    for name in ("num_chroma", "chroma_length"):
        config.pop(name)
    (folder / "config.json").write_text(json.dumps(config))
    tensors = {
        name: value for name, value in load_file(folder / "model.safetensors").items() if "audio_enc_to_dec" not in name
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = StyleNetwork(SETTINGS, config["decoder"]["hidden_size"])
        for buffer in (network.codebooks, network.norm.mean):
            buffer.normal_()
        network.norm.variance.uniform_(0.5, 2.0)
        with torch.no_grad():
            network.output.weight.normal_()
    state = {f"style.{name}": value.clone().contiguous() for name, value in network.state_dict().items()}
    save_file(tensors | state, folder / "model.safetensors", metadata={"format": "pt"})
    return folder
