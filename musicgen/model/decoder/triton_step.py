"""The parts of a decode step outside the layers as Triton kernels: embedding, sampling, and moving on.

Like `triton_launch`, one operation of torch for each launch.
"""

from torch import Tensor

from musicgen.model.decoder.launch_operation import (
    device_of,
    launch_in_place,
    launch_operation,
    load_kernels,
    next_power_of_2,
)

_BLOCK_CLIPS = 256


def _fake_embed_step(
    sequence: Tensor,
    at: Tensor,
    slots: Tensor,
    clips: Tensor,
    lengths: Tensor,
    embeddings: Tensor,
    positions: Tensor,
) -> Tensor:
    return positions.new_empty(clips.shape[0], embeddings.shape[1])


@launch_operation(fake=_fake_embed_step, mutates_args=())
def embed_step(
    sequence: Tensor,
    at: Tensor,
    slots: Tensor,
    clips: Tensor,
    lengths: Tensor,
    embeddings: Tensor,
    positions: Tensor,
) -> Tensor:
    """Sum the embeddings of each token's next codes and its position's sinusoids -> float32 [tokens, hidden].

    sequence int64 [slots, codebooks, steps]; at int64 [slots]; slots int64 [clips]; clips and lengths [tokens].
    """
    (tokens,), (_, codebooks, steps) = clips.shape, sequence.shape
    entries, hidden = embeddings.shape[0] // codebooks, embeddings.shape[1]
    out = positions.new_empty(tokens, hidden)
    with device_of(sequence):
        load_kernels("piece_kernels").embed_kernel[(tokens,)](
            sequence, steps, at, slots, clips, lengths, embeddings, positions, out, codebooks, entries, hidden,
            next_power_of_2(hidden),
        )  # fmt: skip
    return out


@launch_in_place(mutates_args=("sequence",))
def sample_step(
    logits: Tensor,
    sequence: Tensor,
    at: Tensor,
    slots: Tensor,
    cond: Tensor,
    other: Tensor,
    null: Tensor,
    scale: Tensor,
    beta: Tensor,
    temperature: Tensor,
    top_p: Tensor,
    top_k: Tensor,
    window: Tensor,
    seed: Tensor,
) -> None:
    """Sample the codes of step at + 1 that are negative in `sequence`, in place.

    logits float32 [rows, codebooks, size]; `slots` and the clips' sampling parameters [clips] as in
    musicgen/engine/sampling.py.
    """
    _, codebooks, size = logits.shape
    with device_of(sequence):
        load_kernels("sampling_kernels").sample_kernel[(slots.shape[0], codebooks)](
            logits, sequence, sequence.shape[2], at, slots, cond, other, null, scale, beta, temperature, top_p, top_k,
            window, seed, codebooks, size, next_power_of_2(size), num_warps=8,
        )  # fmt: skip


@launch_in_place(mutates_args=("at", "lengths"))
def advance_step(at: Tensor, slots: Tensor, advance: Tensor, lengths: Tensor, clips: Tensor) -> None:
    """Add `advance` int64 [clips] to the steps int64 [slots] of the clips' slots, and to their tokens' lengths."""
    count = max(slots.shape[0], clips.shape[0])
    with device_of(at):
        load_kernels("sampling_kernels").advance_kernel[(-(-count // _BLOCK_CLIPS),)](
            at, slots, advance, slots.shape[0], lengths, clips, clips.shape[0], _BLOCK_CLIPS
        )
