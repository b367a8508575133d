"""A CUDA graph without a GPU: remembers each operation with its very tensors, and does them again.

It is as strict as the real thing where a mistake would be silent there: what is replaced after the capture is not
noticed, values of the host's stay what they were, and nothing is done while capturing. What cannot be captured raises.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

# Reads the device, makes shapes of what it holds, or brings a host's values there.
REFUSED = {"_local_scalar_dense", "item", "is_nonzero", "nonzero", "masked_select", "lift", "lift_fresh"}


class Recorder:
    """A `GraphCapture` (musicgen/model/decoder/cuda_graphs.py) for a CPU."""

    def __init__(self) -> None:
        self.warmed = 0
        self.captured = 0

    def warm(self, work: Callable[[], None]) -> None:
        self.warmed += 1
        work()

    def capture(self, work: Callable[[], None]) -> Callable[[], None]:
        recording = _Recording()
        try:
            with recording:
                work()
        finally:
            for tensor, before in reversed(recording.overwritten):
                tensor.copy_(before)
        self.captured += 1
        return recording.replay

    def forget(self) -> None:
        """There is no memory to give back."""


class _Recording(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.operations: list[tuple[Any, Any, Any, Any]] = []
        self.overwritten: list[tuple[torch.Tensor, torch.Tensor]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func._schema.name.removeprefix("aten::")
        if name in REFUSED or (name.startswith("index") and any(t.dtype == torch.bool for t in tensors(args[1:]))):
            raise RuntimeError(f"operation not permitted when stream is capturing: {name}")
        for argument, value in zip(func._schema.arguments, args, strict=False):
            if argument.alias_info is not None and argument.alias_info.is_write:
                self.overwritten.append((value, value.clone()))
        out = func(*args, **kwargs)
        self.operations.append((func, args, kwargs, out))
        return out

    def replay(self) -> None:
        for func, args, kwargs, out in self.operations:
            for before, now in zip(tensors(out), tensors(func(*args, **kwargs)), strict=True):
                if before.data_ptr() != now.data_ptr():  # a view, or what was written in place, is there already
                    before.copy_(now)


def tensors(tree: Any) -> list[torch.Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor)]
