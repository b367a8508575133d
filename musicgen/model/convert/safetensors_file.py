"""Writes a safetensors file tensor by tensor, so that a checkpoint larger than memory can be written."""

import json
import os
import struct
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from musicgen.errors import ModelError

Part = Callable[[], Tensor]  # reads a tensor, at each call
OnBytes = Callable[[int, int], None]  # bytes written, bytes in all

_DTYPES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.int64: "I64",
    torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip
_CHUNK = 64 << 20  # bytes between two calls of `on_bytes`


def write_safetensors(path: Path, tensors: Mapping[str, Sequence[Part]], on_bytes: OnBytes) -> None:
    """Write tensors by name; several parts of equal shape are stacked along a new first dimension.

    A part is read twice, once for the header, and never more than one is held. Raises `ModelError` for a kind of tensor
    that the format does not know.
    """
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    total = 0
    for name in (order := _aligned_order(tensors)):
        dtype, shape, size = _describe(name, tensors[name])
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [total, total + size]}
        total += size
    encoded = json.dumps(header, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % 8)  # so that the data begins at a multiple of 8
    written = 0
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(encoded)) + encoded)
        for name in order:
            for part in tensors[name]:
                part_bytes = _as_bytes(part())
                for start in range(0, len(part_bytes), _CHUNK):
                    written += file.write(part_bytes[start : start + _CHUNK])
                    on_bytes(written, total)
        file.flush()
        os.fsync(file.fileno())


def _aligned_order(tensors: Mapping[str, Sequence[Part]]) -> list[str]:
    """Sort the names: wide numbers first, so that every tensor begins at a multiple of its numbers' width."""
    return sorted(tensors, key=lambda name: (-tensors[name][0]().element_size(), name))


def _describe(name: str, parts: Sequence[Part]) -> tuple[str, list[int], int]:
    """Return the header's dtype and shape of a tensor, and its bytes."""
    first = parts[0]()
    if first.dtype not in _DTYPES or first.layout != torch.strided:
        raise ModelError(f"the tensor {name} has the dtype {first.dtype} ({first.layout}), which cannot be converted")
    for part in parts[1:]:
        if (tensor := part()).shape != first.shape or tensor.dtype != first.dtype:
            raise ModelError(f"the parts of the tensor {name} differ in shape or dtype; the checkpoint is damaged")
    shape = list(first.shape) if len(parts) == 1 else [len(parts), *first.shape]
    return _DTYPES[first.dtype], shape, len(parts) * first.numel() * first.element_size()


def _as_bytes(tensor: Tensor) -> memoryview:
    numbers = tensor.detach().contiguous().reshape(-1)  # no copy of one that lies whole in a mapped file
    return memoryview(cast(NDArray[np.uint8], numbers.view(torch.uint8).numpy()))  # type: ignore[arg-type]
