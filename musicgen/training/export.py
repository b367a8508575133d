"""Writes a trained network as a checkpoint in the published format, for `musicgen run --model` and transformers."""

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file

from musicgen.model.checkpoint.resolve import Checkpoint
from musicgen.model.checkpoint.tensors import Tensors
from musicgen.training.network import Network
from musicgen.training.start import copy_small_files
from musicgen.value_types import JsonObject

DTYPES = {"float16": "float16", "float32": "float32"}


def export_checkpoint(
    network: Network, start: Checkpoint, folder: Path, pattern: str, dtype: str | None = None, card: str = ""
) -> None:
    """Write `network` with the codec, tokenizer and config of `start` into `folder`, completely or not at all.

    `dtype` is the stored one, "float16" or "float32"; None: each tensor's own in `start`. `card` becomes README.md.
    """
    partial, previous = (folder.with_name(f"{folder.name}.{suffix}") for suffix in ("partial", "old"))
    for path in (partial, previous):
        shutil.rmtree(path, ignore_errors=True)
    partial.mkdir(parents=True)
    stored = Tensors.open(start.folder)
    tensors = dict(stored.view("", "cpu"))
    trained = {name: tensor.cpu() for name, tensor in network.published_tensors().items()}
    for name, tensor in trained.items():
        name = (
            name
            if name in tensors or name != "text_encoder.shared.weight"
            else "text_encoder.encoder.embed_tokens.weight"
        )
        tensors[name] = tensor.to(tensors[name].dtype) if name in tensors else tensor
    if dtype is not None:
        torch_dtype = getattr(torch, DTYPES[dtype])
        tensors = {
            name: tensor.to(torch_dtype) if tensor.is_floating_point() else tensor for name, tensor in tensors.items()
        }
    save_file(
        {name: tensor.contiguous() for name, tensor in tensors.items()}, partial / "model.safetensors", {"format": "pt"}
    )
    (partial / "model.safetensors").chmod(0o644)  # safetensors makes it readable for its owner only
    config = json.loads((start.folder / "config.json").read_text(encoding="utf-8"))
    if pattern != start.spec.pattern:
        config["decoder"]["codebook_pattern"] = pattern
    config["dtype"] = dtype or str(trained["decoder.lm_heads.0.weight"].dtype).removeprefix("torch.")
    (partial / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    copy_small_files(start.folder, partial)
    (partial / "README.md").write_text(card, encoding="utf-8")
    if folder.exists():
        os.replace(folder, previous)
    os.replace(partial, folder)
    shutil.rmtree(previous, ignore_errors=True)


def format_model_card(
    *, title: str, start: Checkpoint, pattern: str, data: str, clips: int, hours_of_music: float, unusable_rows: int,
    log_lines: Sequence[JsonObject], parameters: int, command: str, schedule: JsonObject, about: str = ""
) -> str:  # fmt: skip
    """Format the model card of a training: the model, its data, the command that trained it, and its losses."""
    spec = start.spec
    last_line = log_lines[-1] if log_lines else {}
    validation: JsonObject = next((line for line in reversed(log_lines) if "valid" in line), {})
    rows = [
        (
            "decoder",
            f"{spec.layers} layers x {spec.hidden}, {spec.codebooks} codebooks of {spec.codebook_size}, pattern "
            f"{pattern}",
        ),
        ("parameters trained", f"{parameters:,}"),
        ("codec", f"{spec.sample_rate} Hz, {spec.frame_rate:g} frames a second"),
        (
            "trained on",
            f"{clips:,} clips, {hours_of_music:.1f} hours of music ({data}); {unusable_rows} rows could not be used",
        ),
        (
            "steps",
            f"{last_line.get('step', 0):,}, {last_line.get('frames', 0):,} frames, "
            f"{last_line.get('epochs', 0):.1f} epochs",
        ),
        ("hours of running", f"{last_line.get('seconds', 0) / 3600:.2f}"),
        ("seed", f"{schedule['seed']}"),
        (
            "training loss, nats a code",
            f"{last_line['loss']:.3f} ({', '.join(f'{loss:.3f}' for loss in last_line['each'])} by codebook)"
            if last_line
            else "-",
        ),
    ]
    if validation:
        rows.append(
            (
                "validation loss, nats a code",
                f"{validation['valid']:.3f}; without melody {validation['valid_text']:.3f}; without melody and text "
                f"{validation['valid_none']:.3f}",
            )
        )
    table = "\n".join(f"| {name} | {value} |" for name, value in rows)
    return (
        f"# {title}\n\nA MusicGen checkpoint ({spec.kind}) in the published format. Made by:\n\n```\n{command}\n```\n\n"
        f"| | |\n|---|---|\n{table}\n\n"
        f"The weights are an exponential moving average of the training's ({schedule['ema']} a step). Settings:\n\n"
        f"```json\n{json.dumps(schedule, indent=1)}\n```\n" + (f"\n{about.strip()}\n" if about else "")
    )
