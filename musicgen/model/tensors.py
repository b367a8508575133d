"""Reads a checkpoint's tensors by prefix, straight from the memory-mapped safetensors files."""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from musicgen.errors import ModelError
from musicgen.model.weights import TensorInfo, read_headers

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Tensors:
    """The tensors of a checkpoint folder, by name; nothing is read until it is asked for."""

    folder: Path
    headers: dict[str, TensorInfo]

    @classmethod
    def open(cls, folder: Path) -> "Tensors":
        """Read the headers. Raises `ModelError`: no safetensors, or damaged ones."""
        return cls(folder, read_headers(folder))

    def names(self, prefix: str = "") -> Iterator[str]:
        """Names that begin with `prefix`."""
        return (name for name in self.headers if name.startswith(prefix))

    def read(self, prefix: str, device: "torch.device | str" = "cpu", dtype: "torch.dtype | None" = None) -> "dict[str, torch.Tensor]":
        """The tensors under `prefix`, without it, on `device`, floats as `dtype` (None: as stored).

        Raises `ModelError` if there are none.
        """
        from safetensors import SafetensorError, safe_open

        found: dict[str, Any] = {}
        with ExitStack() as stack:
            files: dict[str, Any] = {}
            for name in self.names(prefix):
                file = self.headers[name].file
                if file not in files:
                    try:
                        files[file] = stack.enter_context(safe_open(self.folder / file, framework="pt", device="cpu"))
                    except (SafetensorError, OSError) as error:
                        raise ModelError(f"{self.folder / file}: cannot be read ({error}); download it again") from None
                tensor = files[file].get_tensor(name)
                found[name.removeprefix(prefix)] = tensor.to(device, dtype) if tensor.is_floating_point() else tensor.to(device)
        if not found:
            raise ModelError(f"{self.folder}: holds no tensors {prefix}*; it is not a whole MusicGen checkpoint")
        return found


def fill(module: "torch.nn.Module", tensors: "dict[str, torch.Tensor]", what: str, optional: tuple[str, ...] = ()) -> None:
    """Load `tensors` into `module`; every parameter must be given, except names that end with one of `optional`.

    Raises `ModelError` naming the first tensor that is missing or of the wrong shape.
    """
    expected = module.state_dict()
    for name, value in expected.items():
        if name not in tensors:
            if name.endswith(optional) and optional:
                continue
            raise ModelError(f"{what} lacks the tensor {name}; the checkpoint is incomplete")
        if tensors[name].shape != value.shape:
            raise ModelError(
                f"{what}: {name} has the shape {tuple(tensors[name].shape)}, its config says {tuple(value.shape)}; "
                "config.json and weights do not belong together"
            )
    module.load_state_dict({name: tensors[name] for name in expected if name in tensors}, strict=False)
