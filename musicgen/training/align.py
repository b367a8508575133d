"""Heads that begin by looking at their own time in the prefix.

A melody's pitch classes and a prompt's ticks (`musicgen.training.ticks`) stand in the prefix, 6.4 codes each. To find
its own, a code's position must be multiplied: a small decoder learns that only after thousands of steps, and follows
neither until then. Yet it is linear: positions are sinusoids, so are times, and a product of two sinusoids tells how
far apart they are. So the first layer's queries and keys are fitted, by least squares on what it sees of random codes
and real prompts, to the cosines and sines of their times.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from musicgen import patterns
from musicgen.conditioning import chroma
from musicgen.training.batch import TrainingClip, assemble_batch
from musicgen.training.network import DecoderLayer, Network

_CLIPS = 16  # that it is fitted on
# the logarithm of how much more a head attends to its own time than to any other, about twice that of a window's
# positions
_PEAK = 14.0
_RIDGE = 0.1
_ELSEWHERE = 0.2  # what a position counts where a head is not to look
_VALUE, _OUT = 1.0, 0.02  # deviations of what a head says at first: all of what it sees, very softly


@torch.no_grad()
def align_heads(
    network: Network, texts: Sequence[NDArray[np.int32]], ticks: int, pattern: str, seed: int
) -> list[float]:
    """Set the first two heads of a melody model's first layer to look at the pitch class, and at the tick, of their own
    time.

    `texts` are token ids of prompts, with their `ticks`; without ticks one head is set. Returns how much of each head's
    attention falls within two positions of where it is to look. The same arguments, the same bits.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # sums depend on how they are shared out
    try:
        seen, times, start = _first_layer_inputs(network, texts, pattern, seed)
        return [
            _align_head(network, head, seen, times, start, first, count, seed)
            for head, (first, count) in enumerate(
                ((0, network.spec.chroma_length), (network.spec.chroma_length, ticks))
            )
            if count
        ]
    finally:
        torch.set_num_threads(threads)


def _first_layer_inputs(
    network: Network, texts: Sequence[NDArray[np.int32]], pattern: str, seed: int
) -> tuple[Tensor, Tensor, Tensor]:
    """What the first layer's attention sees of random codes [clips, N, hidden]; each step's time, in codes; where steps
    begin [clips].
    """
    spec = network.spec
    draw = np.random.default_rng([seed, 3])
    clips = [
        TrainingClip(
            draw.integers(spec.codebook_size, size=(spec.codebooks, spec.max_frames), dtype=np.int16),
            draw.integers(spec.chroma_bins, size=spec.chroma_length, dtype=np.int8),
            texts[number % len(texts)],
        )
        for number in range(_CLIPS)
    ]
    x, _, start = network.embed(assemble_batch(clips, spec, pattern, spec.max_frames).to(network.sinusoids.device))
    assert start is not None
    # A step predicts its successor: its time is that of the newest code there.
    steps = patterns.layout(pattern, spec.codebooks, spec.max_frames)[1:]
    times = torch.tensor([max((frame for frame, _ in step), default=0) for step in steps], device=x.device)
    return _first_layer(network).self_attn_layer_norm(x), times.float(), start


def _first_layer(network: Network) -> DecoderLayer:
    layer = network.decoder.model.decoder.layers[0]
    assert isinstance(layer, DecoderLayer)
    return layer


def _align_head(
    network: Network, head: int, seen: Tensor, times: Tensor, start: Tensor, first: int, count: int, seed: int
) -> float:
    """Let a head look at its own time among `count` positions from `first` on. Returns how far it does."""
    spec, attention = network.spec, _first_layer(network).self_attn
    each = chroma.HOP / chroma.RATE_HZ * spec.frame_rate  # codes a position of the prefix
    rates = torch.logspace(
        math.log10(2 * math.pi / spec.max_frames), math.log10(1 / each), spec.head_dim // 2
    )  # radians a code
    loud = rates**0.5  # the fast ones tell neighbours apart

    def told(at: Tensor) -> Tensor:  # times [n] to [n, head dim]
        turns = at.cpu()[:, None] * rates
        return torch.cat([turns.cos() * loud, turns.sin() * loud], dim=1)

    positions = torch.arange(seen.shape[1], device=seen.device)
    codes = torch.stack(
        [row[at : at + len(times)] for row, at in zip(seen, start.tolist(), strict=True)]
    )  # [clips, steps, hidden]
    query = _fit_ridge(codes, told(times), torch.ones_like(times))
    key = _fit_ridge(
        seen,
        told((positions - first) * each),
        torch.where((positions >= first) & (positions < first + count), 1.0, _ELSEWHERE),
    )
    own = (first + (times / each).round().long()).clamp(max=first + count - 1)  # [steps]: the position of a step's time
    scores = (codes @ query.T) @ (seen @ key.T).transpose(1, 2) / spec.head_dim**0.5  # [clips, steps, N]
    more = _PEAK / scores[:, torch.arange(len(own)), own].mean().clamp(min=1e-3)  # a tiny model's fit may tell nothing
    rows = slice(head * spec.head_dim, (head + 1) * spec.head_dim)
    attention.q_proj.weight[rows], attention.k_proj.weight[rows] = query * more**0.5, key * more**0.5
    draw = torch.Generator().manual_seed(seed + head)
    attention.v_proj.weight[rows] = (
        _VALUE / spec.hidden**0.5 * torch.randn(spec.head_dim, spec.hidden, generator=draw)
    ).to(seen.device)
    attention.out_proj.weight[:, rows] = (_OUT * torch.randn(spec.hidden, spec.head_dim, generator=draw)).to(
        seen.device
    )

    later = positions > (start[0] + torch.arange(len(times), device=seen.device))[:, None]
    attended = torch.softmax((scores[0] * more).masked_fill(later, -torch.inf), dim=-1)
    return float((attended * ((positions - own[:, None]).abs() <= 2)).sum(-1).mean())


def _fit_ridge(seen: Tensor, told: Tensor, counts: Tensor) -> Tensor:
    """The matrix [told, hidden] that tells best, by ridge regression, `told` [n, told] of `seen` [clips, n, hidden]; n
    counts `counts`.
    """
    device, clips = seen.device, len(seen)
    seen, told, counts = seen.flatten(0, 1).cpu(), told.cpu().repeat(clips, 1), counts.cpu().repeat(clips)
    left = (seen * counts[:, None]).T
    ridge = _RIDGE * len(seen) * torch.eye(seen.shape[1])
    return torch.linalg.solve(left @ seen + ridge, left @ told).T.contiguous().to(device)
