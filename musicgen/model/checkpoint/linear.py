"""Loads single linear layers of a checkpoint."""

import torch
from torch import nn

from musicgen.model.checkpoint.tensors import Tensors, load_parameters


def load_linear(tensors: Tensors, prefix: str, inputs: int, outputs: int, device: torch.device) -> nn.Linear:
    """Load a linear layer with bias, float32. Raises `ModelError` if it is missing or of another shape."""
    layer = nn.Linear(inputs, outputs)
    load_parameters(layer, tensors.read(prefix, "cpu", torch.float32), f"{tensors.folder}: {prefix.rstrip('.')}")
    return layer.to(device).eval().requires_grad_(False)
