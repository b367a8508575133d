"""Reads which tensors of a checkpoint folder are stored in which safetensors file: headers only, without torch."""

import json
import math
import struct
from dataclasses import dataclass
from pathlib import Path

from musicgen.errors import ModelError

_MAX_HEADER = 100 << 20  # the format's own bound


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """The file, dtype and shape of a stored tensor. `dtype` is safetensors' name: F32, F16, BF16 ..."""

    file: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


def has_weights(folder: Path) -> bool:
    """Whether there are safetensors under the names of the published format; they may be incomplete."""
    return any((folder / name).is_file() for name in ("model.safetensors", "model.safetensors.index.json"))


def weight_files(folder: Path) -> list[Path]:
    """List the checkpoint's safetensors files: `model.safetensors`, or the shards that its index names.

    Pickled weights (`pytorch_model.bin`) are never opened: loading them runs code. Raises `ModelError`.
    """
    single, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if single.is_file():
        return [single]
    if index.is_file():
        try:
            names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
            raise ModelError(f"{index}: not an index of safetensors shards ({error!r}); download it again") from None
        for name in names:
            if not isinstance(name, str) or Path(name).name != name:
                raise ModelError(f"{index}: names the file {name!r} outside its folder; do not use this checkpoint")
            if not (folder / name).is_file():
                raise ModelError(f"{folder}: lacks {name}, which its index names; download the checkpoint again")
        return [folder / name for name in names]
    if any(folder.glob("pytorch_model*.bin")):
        raise ModelError(
            f"{folder}: has pytorch_model.bin only, and pickled weights are not loaded since that runs code; "
            f"convert them once: musicgen convert {folder} NEW_FOLDER"
        )
    if (folder / "state_dict.bin").is_file():
        raise ModelError(
            f"{folder}: is in audiocraft's format (state_dict.bin); convert it once: musicgen convert {folder} "
            "NEW_FOLDER"
        )
    raise ModelError(f"{folder}: no model.safetensors; a checkpoint is a folder in the published Hugging Face format")


def read_headers(folder: Path) -> dict[str, TensorInfo]:
    """Read the header entry of every tensor of the checkpoint, by name.

    Raises `ModelError` for a truncated file or one that is not safetensors.
    """
    return {name: info for path in weight_files(folder) for name, info in _read_header(path).items()}


def _read_header(path: Path) -> dict[str, TensorInfo]:
    size = path.stat().st_size
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > min(size, _MAX_HEADER):
                raise ValueError("header longer than the file")
            header = json.loads(file.read(length))
        header.pop("__metadata__", None)
        end = 8 + length + max((entry["data_offsets"][1] for entry in header.values()), default=0)
        tensors = {name: TensorInfo(path.name, entry["dtype"], tuple(entry["shape"])) for name, entry in header.items()}
    except (struct.error, ValueError, KeyError, TypeError, AttributeError, OSError) as error:
        hint = " (a Git LFS pointer: run `git lfs pull`)" if size < 1024 else ""
        raise ModelError(f"{path}: not a safetensors file{hint}: {error}; download it again") from None
    if end != size:
        raise ModelError(f"{path}: truncated, {size} of {end} bytes; download it again")
    return tensors
