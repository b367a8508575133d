"""Counter-based randomness: Philox4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3").

A number is a function of (effective seed, window, step, codebook, token) alone: neither the device, nor the time, nor
the other clips of a step change it. Only integer operations are used, so the words are the same on every device and in
the CPU kernels (`musicgen/model/decoder/kernels/sampling.h`), which compute them one by one.
"""

import torch
from torch import Tensor

_LOW = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)


def philox_4x32(counter: tuple[Tensor, Tensor, Tensor, Tensor], seed: Tensor) -> Tensor:
    """Compute random 32-bit words, int64 [..., 4], from four 32-bit counters and a 64-bit seed, broadcast together."""
    c0, c1, c2, c3 = torch.broadcast_tensors(*counter)
    k0, k1 = seed & _LOW, (seed >> 32) & _LOW
    for _ in range(10):
        # The products need 64 unsigned bits; int64 overflows, which leaves the same bits.
        a, b = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0, c2 = ((b >> 32) & _LOW) ^ c1 ^ k0, ((a >> 32) & _LOW) ^ c3 ^ k1
        c1, c3 = b & _LOW, a & _LOW
        k0, k1 = (k0 + _WEYL[0]) & _LOW, (k1 + _WEYL[1]) & _LOW
    return torch.stack([c0, c1, c2, c3], dim=-1)


def draw_uniforms(seed: Tensor, window: Tensor, step: Tensor, codebooks: int, size: int) -> Tensor:
    """Draw uniform numbers in (0, 1), float64 [clips, codebooks, size]; seed, window and step are int64 [clips]."""
    device = seed.device
    group = torch.arange(-(-size // 4), device=device)
    codebook = torch.arange(codebooks, device=device)[:, None]
    clip = (slice(None), None, None)
    words = philox_4x32((group, codebook, step[clip], window[clip]), seed[clip])  # [clips, codebooks, groups, 4]
    return (words.flatten(-2)[..., :size].double() + 0.5) * 2.0**-32
