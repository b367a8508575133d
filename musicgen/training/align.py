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

_FIT_CLIPS = 16  # that it is fitted on
# the logarithm of how much more a head attends to its own time than to any other, about twice that of a window's
# positions
_PEAK_LOGIT = 14.0
_RIDGE_STRENGTH = 0.1
_OUTSIDE_WEIGHT = 0.2  # what a position counts where a head is not to look
_VALUE_DEVIATION, _OUTPUT_DEVIATION = (
    1.0,
    0.02,
)  # deviations of what a head says at first: all of what it sees, very softly


@torch.no_grad()
def align_heads(
    network: Network, prompts: Sequence[NDArray[np.int32]], ticks: int, pattern: str, seed: int
) -> list[float]:
    """Set the first two heads of a melody model's first layer to look at the pitch class, and at the tick, of their own
    time.

    `texts` are token ids of prompts, with their `ticks`; without ticks one head is set. Returns how much of each head's
    attention falls within two positions of where it is to look. The same arguments, the same bits.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # sums depend on how they are shared out
    try:
        inputs, times, code_starts = _first_layer_inputs(network, prompts, pattern, seed)
        return [
            _align_head(network, head, inputs, times, code_starts, first_position, position_count, seed)
            for head, (first_position, position_count) in enumerate(
                ((0, network.spec.chroma_length), (network.spec.chroma_length, ticks))
            )
            if position_count
        ]
    finally:
        torch.set_num_threads(threads)


def _first_layer_inputs(
    network: Network, prompts: Sequence[NDArray[np.int32]], pattern: str, seed: int
) -> tuple[Tensor, Tensor, Tensor]:
    """What the first layer's attention sees of random codes [clips, N, hidden]; each step's time, in codes; where steps
    begin [clips].
    """
    spec = network.spec
    rng = np.random.default_rng([seed, 3])
    clips = [
        TrainingClip(
            rng.integers(spec.codebook_size, size=(spec.codebooks, spec.max_frames), dtype=np.int16),
            rng.integers(spec.chroma_bins, size=spec.chroma_length, dtype=np.int8),
            prompts[clip_index % len(prompts)],
        )
        for clip_index in range(_FIT_CLIPS)
    ]
    states, _, code_starts = network.embed(
        assemble_batch(clips, spec, pattern, spec.max_frames).to(network.sinusoids.device)
    )
    assert code_starts is not None
    # A step predicts its successor: its time is that of the newest code there.
    steps = patterns.layout(pattern, spec.codebooks, spec.max_frames)[1:]
    times = torch.tensor([max((frame for frame, _ in step), default=0) for step in steps], device=states.device)
    return _first_layer(network).self_attn_layer_norm(states), times.float(), code_starts


def _first_layer(network: Network) -> DecoderLayer:
    layer = network.decoder.model.decoder.layers[0]
    assert isinstance(layer, DecoderLayer)
    return layer


def _align_head(
    network: Network,
    head: int,
    inputs: Tensor,
    times: Tensor,
    code_starts: Tensor,
    first_position: int,
    position_count: int,
    seed: int,
) -> float:
    """Let a head look at its own time among `count` positions from `first` on. Returns how far it does."""
    spec, attention = network.spec, _first_layer(network).self_attn
    codes_per_position = chroma.HOP / chroma.RATE_HZ * spec.frame_rate  # codes a position of the prefix
    frequencies = torch.logspace(
        math.log10(2 * math.pi / spec.max_frames), math.log10(1 / codes_per_position), spec.head_dim // 2
    )  # radians a code
    amplitudes = frequencies**0.5  # the fast ones tell neighbours apart

    def encode_times(code_times: Tensor) -> Tensor:  # times [n] to [n, head dim]
        angles = code_times.cpu()[:, None] * frequencies
        return torch.cat([angles.cos() * amplitudes, angles.sin() * amplitudes], dim=1)

    positions = torch.arange(inputs.shape[1], device=inputs.device)
    code_inputs = torch.stack(
        [clip_inputs[at : at + len(times)] for clip_inputs, at in zip(inputs, code_starts.tolist(), strict=True)]
    )  # [clips, steps, hidden]
    query = _fit_ridge(code_inputs, encode_times(times), torch.ones_like(times))
    key = _fit_ridge(
        inputs,
        encode_times((positions - first_position) * codes_per_position),
        torch.where(
            (positions >= first_position) & (positions < first_position + position_count), 1.0, _OUTSIDE_WEIGHT
        ),
    )
    own_positions = (first_position + (times / codes_per_position).round().long()).clamp(
        max=first_position + position_count - 1
    )  # [steps]: the position of a step's time
    scores = (code_inputs @ query.T) @ (inputs @ key.T).transpose(1, 2) / spec.head_dim**0.5  # [clips, steps, N]
    gain = _PEAK_LOGIT / scores[:, torch.arange(len(own_positions)), own_positions].mean().clamp(
        min=1e-3
    )  # a tiny model's fit may tell nothing
    head_rows = slice(head * spec.head_dim, (head + 1) * spec.head_dim)
    attention.q_proj.weight[head_rows], attention.k_proj.weight[head_rows] = query * gain**0.5, key * gain**0.5
    generator = torch.Generator().manual_seed(seed + head)
    attention.v_proj.weight[head_rows] = (
        _VALUE_DEVIATION / spec.hidden**0.5 * torch.randn(spec.head_dim, spec.hidden, generator=generator)
    ).to(inputs.device)
    attention.out_proj.weight[:, head_rows] = (
        _OUTPUT_DEVIATION * torch.randn(spec.hidden, spec.head_dim, generator=generator)
    ).to(inputs.device)

    is_later = positions > (code_starts[0] + torch.arange(len(times), device=inputs.device))[:, None]
    attended = torch.softmax((scores[0] * gain).masked_fill(is_later, -torch.inf), dim=-1)
    return float((attended * ((positions - own_positions[:, None]).abs() <= 2)).sum(-1).mean())


def _fit_ridge(inputs: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    """The matrix [told, hidden] that tells best, by ridge regression, `told` [n, told] of `seen` [clips, n, hidden]; n
    counts `counts`.
    """
    device, clips = inputs.device, len(inputs)
    inputs, targets, weights = inputs.flatten(0, 1).cpu(), targets.cpu().repeat(clips, 1), weights.cpu().repeat(clips)
    weighted_inputs = (inputs * weights[:, None]).T
    ridge = _RIDGE_STRENGTH * len(inputs) * torch.eye(inputs.shape[1])
    return torch.linalg.solve(weighted_inputs @ inputs + ridge, weighted_inputs @ targets).T.contiguous().to(device)
