"""Initializes two attention heads so that they attend to their own time in the prefix.

A melody's pitch classes and a prompt's ticks (`musicgen.training.ticks`) are in the prefix, one for each 6.4 codes. To
find its own, a code must scale its position. A small decoder learns that only after thousands of steps, and until then
it follows neither melody nor ticks. But the relation can be set from the start: positions and times are both encoded as
sinusoids, and the product of two sinusoids depends on the distance between them. So the first layer's queries and keys
are fitted to the cosines and sines of their times, by least squares on its inputs for random codes and real prompts.
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
from musicgen.training.decoder_modules import DecoderLayer
from musicgen.training.network import Network

_FIT_CLIPS = 16  # that the heads are fitted on
# The logarithm of how much more a head attends to its own time than to any other; about twice the logarithm of the
# number of a window's positions.
_PEAK_LOGIT = 14.0
_RIDGE_STRENGTH = 0.1
_OUTSIDE_WEIGHT = 0.2  # of the positions that a head is not to attend to
# Standard deviations of a head's random value and output weights: it passes on all of its input, with a small effect.
_VALUE_DEVIATION, _OUTPUT_DEVIATION = 1.0, 0.02


@torch.no_grad()
def align_heads(
    network: Network, prompts: Sequence[NDArray[np.int32]], ticks: int, pattern: str, seed: int
) -> list[float]:
    """Set the first two heads of a melody model's first layer to attend to the pitch class and the tick of their time.

    `prompts` are token ids of prompts with `ticks` ticks; without ticks only the first head is set. Returns each head's
    share of attention within two positions of its own time. The same arguments give the same bits.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the order of sums depends on the number of threads
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
    """Compute the inputs of the first layer's attention for random codes: [clips, N, hidden].

    Also returns each step's time in codes, [steps], and where the codes of each clip begin, [clips].
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
    # A step predicts the next one, so its time is that of the newest code there.
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
    """Set a head to attend to its own time among `position_count` positions from `first_position` on.

    Returns its share of attention within two positions of its own time.
    """
    spec, attention = network.spec, _first_layer(network).self_attn
    codes_per_position = chroma.HOP / chroma.RATE_HZ * spec.frame_rate
    frequencies = torch.logspace(
        math.log10(2 * math.pi / spec.max_frames), math.log10(1 / codes_per_position), spec.head_dim // 2
    )  # radians a code
    amplitudes = frequencies**0.5  # larger for high frequencies, which distinguish neighbors

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
    own_score = scores[:, torch.arange(len(own_positions)), own_positions].mean()
    gain = _PEAK_LOGIT / own_score.clamp(min=1e-3)  # because the fit of a tiny model may fail
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
    """Fit the matrix [width, hidden] that maps inputs [clips, n, hidden] to targets [n, width] by ridge regression.

    `weights` [n] are the weights of the positions.
    """
    device, clips = inputs.device, len(inputs)
    inputs, targets, weights = inputs.flatten(0, 1).cpu(), targets.cpu().repeat(clips, 1), weights.cpu().repeat(clips)
    weighted_inputs = (inputs * weights[:, None]).T
    ridge = _RIDGE_STRENGTH * len(inputs) * torch.eye(inputs.shape[1])
    return torch.linalg.solve(weighted_inputs @ inputs + ridge, weighted_inputs @ targets).T.contiguous().to(device)
