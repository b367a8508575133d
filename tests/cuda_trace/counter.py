"""Counts what the operations of a trace would cost on a GPU: kernels, bytes that move, and operands on the host."""

from collections import Counter
from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tests.cuda_trace.launch_bytes import MeanLengths, launch_bytes

# They only make a view, or allocate without writing.
_VIEWS = (
    "view, reshape, _unsafe_view, unsqueeze, squeeze, slice, select, expand, alias, transpose, t, permute, detach, "
    "detach_, lift_fresh, lift_fresh_copy, split, split_with_sizes, unbind, as_strided, broadcast_tensors, flatten"
)
_ALLOCATIONS = "device, empty, empty_like, empty_strided, new_empty, is_pinned"
_FREE = frozenset(f"{_VIEWS}, {_ALLOCATIONS}".split(", "))
_GATHERS = frozenset({"index", "index_select", "embedding", "gather"})  # they read as much as they write
_COPIES = frozenset({"_to_copy", "copy_"})  # the only operations that may have one operand on the host


class OperationCounter(TorchDispatchMode):
    """Counts the operations below it by name.

    `kernels` are those that would launch one, `bytes` what they read and write at least, each operand once, a
    broadcast one as it is stored. `host_operands` names operations with an operand on the CPU other than copies to the
    device, `host_copies` counts copies between host and device, `host_reads` those of them from the device, and
    `blocking_copies` those for which the host waits.
    `lengths` is what the attention kernels find on the device.
    """

    def __init__(self, lengths: MeanLengths | None = None) -> None:
        super().__init__()
        self.lengths = lengths or MeanLengths(1, 1)
        self.kernels: Counter[str] = Counter()
        self.bytes: Counter[str] = Counter()
        self.host_operands: Counter[str] = Counter()
        self.host_copies = 0
        self.host_reads = 0
        self.blocking_copies = 0

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Run the operation and count it."""
        schema = func._schema.name  # type: ignore[attr-defined]
        name = schema.split("::")[-1]
        result = func(*args, **(kwargs or {}))
        inputs = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        outputs = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        self._count_devices(name, inputs, outputs, _is_blocking(args, kwargs or {}))
        if name not in _FREE and not schema.startswith("prim") and _on_device(inputs + outputs):
            self.kernels[name] += 1
            if schema.startswith("musicgen::"):
                self.bytes[name] += round(launch_bytes(name, args, outputs, self.lengths))
            else:
                self.bytes[name] += _moved_bytes(name, args, inputs, outputs)
        return result

    def _count_devices(self, name: str, inputs: list[Tensor], outputs: list[Tensor], blocking: bool) -> None:
        devices = {tensor.device.type for tensor in inputs + outputs}
        if "cpu" not in devices or name in _FREE:
            return
        if name in _COPIES and len(devices) == 2:
            self.host_copies += 1
            self.blocking_copies += blocking
            target = inputs[0] if name == "copy_" else outputs[0]
            self.host_reads += target.device.type == "cpu"
        elif any(tensor.device.type == "cpu" and tensor.dim() for tensor in inputs) and len(devices) == 2:
            self.host_operands[name] += 1  # one without dimensions is a number that the launch brings with it


def _is_blocking(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether the host waits for a copy with these arguments: of `copy_` the third is `non_blocking`."""
    return not (kwargs.get("non_blocking") or (len(args) > 2 and args[2] is True))


def _on_device(tensors: list[Tensor]) -> bool:
    return any(tensor.device.type == "cuda" for tensor in tensors)


def _moved_bytes(name: str, args: tuple[Any, ...], inputs: list[Tensor], outputs: list[Tensor]) -> int:
    if name in _GATHERS:
        return 2 * sum(map(_stored_bytes, outputs))
    if name.startswith("index_put"):
        return 2 * _stored_bytes(args[2])
    written = [] if name.endswith("_") else outputs  # an operation in place writes what it has been counted to read
    return sum(map(_stored_bytes, inputs + written))


def _stored_bytes(tensor: Tensor) -> int:
    """The bytes behind a tensor; a dimension that is only broadcast is stored once."""
    count = 1
    for size, stride in zip(tensor.shape, tensor.stride(), strict=True):
        count *= size if stride else 1
    return count * tensor.element_size()
