"""Opens the weights of a folder: pickles that hold tensors only, mapped into memory, or safetensors.

Only the child process of a conversion imports this module.
"""

import json
import pickle
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import cast

import torch
from torch import Tensor

from musicgen.errors import ModelError, first_line
from musicgen.model.checkpoint.tensors import Tensors
from musicgen.model.checkpoint.weights import has_weights
from musicgen.value_types import JsonObject

Weights = Mapping[str, Tensor]  # reads a tensor when it is looked up


def open_pickle(path: Path) -> JsonObject:
    """Open a file of `torch.save` that holds a dict of tensors, strings and numbers; nothing else is unpickled.

    Its tensors stay in the file and are read when they are used. Raises `ModelError`.
    """
    if not zipfile.is_zipfile(path):
        raise ModelError(f"{path.name}: not a whole file of torch 1.6 or later; download it again")
    try:
        content: object = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    except pickle.UnpicklingError as error:
        raise ModelError(
            f"{path.name}: holds more than tensors, and is not opened, since that could run code: "
            f"{first_line(error).removeprefix('Weights only load failed. ')}"
        ) from None
    except (RuntimeError, ValueError, EOFError, KeyError, OSError) as error:
        raise ModelError(f"{path.name}: cannot be read ({first_line(error)}); download it again") from None
    if not isinstance(content, dict):
        raise ModelError(f"{path.name}: holds a {type(content).__name__}, where a checkpoint holds a dict")
    return content


def as_tensors(values: object, where: str) -> dict[str, Tensor]:
    """Return the values of a pickled state dict. Raises `ModelError` if one is no tensor."""
    if not isinstance(values, Mapping):
        raise ModelError(f"{where}: holds a {type(values).__name__}, where a checkpoint holds tensors by name")
    for name, value in values.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise ModelError(f"{where}: {str(name)[:80]!r} is a {type(value).__name__}, and no tensor by name")
    return dict(cast(Mapping[str, Tensor], values))


def open_weights(folder: Path) -> Weights:
    """Open a model's weights in transformers' format: safetensors, else pickles. Raises `ModelError`."""
    if has_weights(folder):
        return Tensors.open(folder).view("")
    tensors: dict[str, Tensor] = {}
    for path in _pickled_files(folder):
        for name, tensor in as_tensors(open_pickle(path), path.name).items():
            if name in tensors:
                raise ModelError(f"{folder}: {name} is in more than one file; the checkpoint is damaged")
            tensors[name] = tensor
    return tensors


def _pickled_files(folder: Path) -> Iterable[Path]:
    """List pytorch_model.bin, or the shards that its index names."""
    index = folder / "pytorch_model.bin.index.json"
    if not index.is_file():
        return [folder / "pytorch_model.bin"]
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise ModelError(f"{index.name}: not an index of weights ({error!r}); download it again") from None
    for name in names:
        if not isinstance(name, str) or Path(name).name != name:
            raise ModelError(f"{index.name}: names the file {name!r} outside its folder; do not use this checkpoint")
        if not (folder / name).is_file():
            raise ModelError(f"{folder}: lacks {name}, which its index names; download the checkpoint again")
    return [folder / name for name in names]
