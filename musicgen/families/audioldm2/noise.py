"""The noise that a diffusion begins with: a function of the effective seed alone, the same on every device."""

import math

import torch
from torch import Tensor

from musicgen.engine.philox import philox_4x32

_STREAM = 0x6C646D32  # tells these numbers from those of other uses of the same seed


def draw_normals(seed: int, count: int) -> Tensor:
    """Draw `count` independent standard normal numbers, float32 on the CPU.

    Philox4x32-10 gives four words for each pair of numbers, and the Box-Muller transform (1958) in float64 makes two
    normals of them.
    """
    pairs = -(-count // 2)
    zero = torch.zeros(1, dtype=torch.int64)
    words = philox_4x32((torch.arange(pairs), zero, zero, zero + _STREAM), torch.tensor([seed]))
    high, low = words[:, 0::2].double(), words[:, 1::2].double()
    uniforms = (high * 2.0**32 + low + 0.5) * 2.0**-64  # [pairs, 2], in (0, 1)
    radius, angle = torch.sqrt(-2.0 * torch.log(uniforms[:, 0])), 2.0 * math.pi * uniforms[:, 1]
    normals = torch.stack([radius * torch.cos(angle), radius * torch.sin(angle)], dim=1)
    return normals.flatten()[:count].float()
