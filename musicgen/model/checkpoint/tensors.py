"""Reads a checkpoint's tensors by prefix, straight from the memory-mapped safetensors files."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from musicgen.errors import ModelError
from musicgen.model.checkpoint.weights import TensorInfo, read_headers

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Tensors:
    """The tensors of a checkpoint folder by name; a tensor is read when it is looked up."""

    folder: Path
    headers: dict[str, TensorInfo]

    @classmethod
    def open(cls, folder: Path) -> "Tensors":
        """Read the headers. Raises `ModelError`: no safetensors, or damaged ones."""
        return cls(folder, read_headers(folder))

    def names(self, prefix: str = "") -> Iterator[str]:
        """Iterate over the names that begin with `prefix`."""
        return (name for name in self.headers if name.startswith(prefix))

    def view(
        self, prefix: str, device: "torch.device | str" = "cpu", dtype: "torch.dtype | None" = None
    ) -> "TensorView":
        """Return a mapping of the tensors under `prefix`, which is cut off, on `device`, floats as `dtype` (None: as
        stored).

        Raises `ModelError` if there are none.
        """
        if next(self.names(prefix), None) is None:
            raise ModelError(f"{self.folder}: holds no tensors {prefix}*; it is not a whole MusicGen checkpoint")
        return TensorView(self, prefix, device, dtype)

    def read(
        self, prefix: str, device: "torch.device | str" = "cpu", dtype: "torch.dtype | None" = None
    ) -> "dict[str, torch.Tensor]":
        """Read all tensors of `view` at once."""
        return dict(self.view(prefix, device, dtype))


class TensorView(Mapping[str, "torch.Tensor"]):
    """A mapping that reads a tensor at each look-up and keeps none, so that a model may fill more than half of the
    memory.
    """

    def __init__(self, tensors: Tensors, prefix: str, device: "torch.device | str", dtype: "torch.dtype | None"):
        self._headers = {
            name.removeprefix(prefix): (name, tensors.headers[name].file) for name in tensors.names(prefix)
        }
        self._folder = tensors.folder
        self._device, self._dtype = device, dtype
        self._files: dict[str, Any] = {}  # memory-mapped, and closed with the view

    def __getitem__(self, name: str) -> "torch.Tensor":
        from safetensors import SafetensorError, safe_open

        stored, file = self._headers[name]
        try:
            if file not in self._files:
                self._files[file] = safe_open(self._folder / file, framework="pt", device="cpu")
            tensor = self._files[file].get_tensor(stored)
        except (SafetensorError, OSError) as error:
            raise ModelError(f"{self._folder / file}: cannot be read ({error}); download it again") from None
        return tensor.to(self._device, self._dtype) if tensor.is_floating_point() else tensor.to(self._device)

    def __contains__(self, name: object) -> bool:
        return name in self._headers

    def __iter__(self) -> Iterator[str]:
        return iter(self._headers)

    def __len__(self) -> int:
        return len(self._headers)


def load_parameters(
    module: "torch.nn.Module", tensors: "dict[str, torch.Tensor]", label: str, optional: tuple[str, ...] = ()
) -> None:
    """Load `tensors` into `module`; every parameter must be there, except names that end with one of `optional`.

    Raises `ModelError` naming the first tensor that is missing or of the wrong shape.
    """
    expected = module.state_dict()
    check_parameters({name: tuple(value.shape) for name, value in expected.items()}, tensors, label, optional)
    module.load_state_dict({name: tensors[name] for name in expected if name in tensors}, strict=False)


def check_parameters(
    shapes: Mapping[str, tuple[int, ...]],
    tensors: "Mapping[str, torch.Tensor]",
    label: str,
    optional: tuple[str, ...] = (),
) -> None:
    """Raise `ModelError` for the first of `shapes` that `tensors` lack, or have with another shape.

    Names that end with one of `optional` may be missing.
    """
    for name, shape in shapes.items():
        if name not in tensors:
            if name.endswith(optional) and optional:
                continue
            raise ModelError(f"{label} lacks the tensor {name}; the checkpoint is incomplete")
        if tuple(tensors[name].shape) != shape:
            raise ModelError(
                f"{label}: {name} has the shape {tuple(tensors[name].shape)}, its config says {shape}; "
                "config.json and weights do not belong together"
            )
