"""Copies between host and device for which the thread that steps does not wait."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def upload_array(array: NDArray[np.int32], device: torch.device) -> Tensor:
    """Copy an array to a device; to CUDA from pinned memory, which torch keeps until the copy has been done."""
    on_host = torch.from_numpy(array)
    if device.type == "cpu":
        return on_host
    pinned = torch.empty(on_host.shape, dtype=on_host.dtype, pin_memory=True).copy_(on_host)
    return pinned.to(device, non_blocking=True)


def record_event(device: torch.device) -> torch.cuda.Event | None:
    """Mark this moment of a CUDA device's current stream; None on a CPU, where all work is done at once."""
    if device.type == "cpu":
        return None
    event = torch.cuda.Event()
    event.record()
    return event


class HostCopy:
    """Integers of a device on their way to the host."""

    def __init__(self, tensor: Tensor):
        on_device = tensor.device.type != "cpu"
        self._numbers = torch.empty(tensor.shape, dtype=torch.int32, pin_memory=on_device)
        self._numbers.copy_(tensor.to(torch.int32), non_blocking=on_device)
        self._event = record_event(tensor.device)

    @property
    def is_done(self) -> bool:
        """Whether `read` returns at once."""
        return self._event is None or bool(self._event.query())

    def read(self) -> NDArray[np.int32]:
        """Return the integers int32; wait for them if need be."""
        if self._event is not None:
            self._event.synchronize()
        numbers: NDArray[np.int32] = self._numbers.numpy()
        return numbers
