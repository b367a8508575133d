"""Heads that begin by looking at their own time in the prefix.

A melody's pitch classes and a prompt's ticks (`musicgen.training.beats`) stand in the prefix, 6.4 codes each. To find its own, a
code's position must be multiplied: a small decoder learns that only after thousands of steps, and follows neither until then. Yet
it is linear: positions are sinusoids, so are times, and a product of two sinusoids tells how far apart they are. So the first layer's
queries and keys are fitted, by least squares on what it sees of random codes and real prompts, to the cosines and sines of their times.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from musicgen.conditioning import chroma
from musicgen.training.batch import Batch, Clip, assemble
from musicgen.training.network import Network

_CLIPS = 16  # that it is fitted on
_PEAK = 14.0  # the logarithm of how much more a head attends to its own time than to any other, about twice that of a window's positions
_RIDGE = 1e-3
_VALUE, _OUT = 1.0, 0.02  # deviations of what a head says at first: all of what it sees, very softly


@torch.no_grad()
def align(network: Network, texts: Sequence[NDArray[np.int32]], ticks: int, seed: int, heads: tuple[int, int] = (0, 1)) -> list[float]:
    """Set two heads of the first layer of a melody model to look at the pitch class and at the tick of their own time.

    `texts` are token ids of prompts, with their ticks. Returns how much of each head's attention falls within two positions of it.
    """
    spec = network.spec
    per_position = chroma.HOP / chroma.RATE_HZ * spec.frame_rate  # codes
    draw = np.random.default_rng([seed, 3])
    clips = [
        Clip(
            draw.integers(spec.codebook_size, size=(spec.codebooks, spec.max_frames), dtype=np.int16),
            draw.integers(spec.chroma_bins, size=spec.chroma_length, dtype=np.int8),
            texts[number % len(texts)],
        )
        for number in range(_CLIPS)
    ]
    batch = assemble(clips, spec, spec.pattern, spec.max_frames)
    x, _, start = network.embed(batch)
    assert start is not None
    layer = network.decoder.model.decoder.layers[0]
    seen = layer.self_attn_layer_norm(x)  # [B, N, hidden]
    length, steps = seen.shape[1], batch.inputs.shape[2]
    rates = torch.logspace(math.log10(2 * math.pi / spec.max_frames), math.log10(1 / per_position), spec.head_dim // 2)  # radians a code
    loud = rates**0.5  # fast ones tell neighbours apart
    loud = loud * (_PEAK * spec.head_dim**0.5 / loud.square().sum()) ** 0.5

    def told(times: Tensor) -> Tensor:  # [n] in codes to [n, head dim]
        turns = times[:, None] * rates
        return torch.cat([turns.cos() * loud, turns.sin() * loud], dim=1)

    at = start[:, None] + torch.arange(steps)
    queries = seen.flatten(0, 1)[(at + torch.arange(_CLIPS)[:, None] * length).flatten()]
    query = _fit(queries, told(torch.arange(steps).float()).repeat(_CLIPS, 1))
    found = []
    attention, dim = layer.self_attn, spec.head_dim
    generator = torch.Generator().manual_seed(seed)
    for head, (first, count) in zip(heads, ((0, spec.chroma_length), (spec.chroma_length, ticks)), strict=True):
        if not count:
            continue
        times = (torch.arange(length) - first).float() * per_position
        weight = torch.full((length,), 0.2)
        weight[first : first + count] = 1.0
        key = _fit(seen.flatten(0, 1), told(times).repeat(_CLIPS, 1), weight.repeat(_CLIPS))
        rows = slice(head * dim, (head + 1) * dim)
        attention.q_proj.weight[rows], attention.k_proj.weight[rows] = query, key
        attention.v_proj.weight[rows] = _VALUE / spec.hidden**0.5 * torch.randn(dim, spec.hidden, generator=generator)
        attention.out_proj.weight[:, rows] = _OUT * torch.randn(spec.hidden, dim, generator=generator)
        found.append(_near(seen, batch, start, query, key, first, count, per_position))
    return found


def _fit(seen: Tensor, wanted: Tensor, weight: Tensor | None = None) -> Tensor:
    """The matrix [wanted, seen] of a ridge regression; rows are examples."""
    left = seen if weight is None else seen * weight[:, None]
    ridge = _RIDGE * len(seen) * torch.eye(seen.shape[1])
    return torch.linalg.solve(left.T @ seen + ridge, left.T @ wanted).T.contiguous()


def _near(seen: Tensor, batch: Batch, start: Tensor, query: Tensor, key: Tensor, first: int, count: int, per_position: float) -> float:
    """The part of the first clip's attention, over its prefix and its past, that falls within two positions of its own time."""
    steps = torch.arange(batch.inputs.shape[2])
    positions = torch.arange(seen.shape[1])
    scores = (seen[0, start[0] + steps] @ query.T) @ (seen[0] @ key.T).T / len(query) ** 0.5  # [steps, N]
    scores = scores.masked_fill(positions > (start[0] + steps)[:, None], -torch.inf)
    own = (first + steps / per_position).clamp(max=first + count - 1)
    near = (positions - own[:, None]).abs() <= 2
    return float((torch.softmax(scores, dim=-1) * near).sum(-1).mean())
