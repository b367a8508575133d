"""What fewer bits cost: the embedded model's predictions with rounded numbers against those in float32.

    python -m tests.benchmarks.precision

The codes are drawn from the float32 model and given to every other one, so that all predict the same next codes.
"""

from collections.abc import Callable
from unittest import mock

import torch
from torch import Tensor

from musicgen.model.decoder.cpu_ops import CpuOps
from musicgen.model.decoder.decoder import Decoder, TokenBatch
from musicgen.model.decoder.ops import PackedWeight
from musicgen.model.load import load_model
from tests.benchmarks.workload import prompts

CLIPS, FRAMES = 8, 240


def round_to_levels(x: Tensor, levels: int) -> Tensor:
    """Round x [rows, columns] to so many levels on each side of zero, by a scale for each row."""
    scale = (x.abs().amax(-1, keepdim=True) / levels).clamp(min=1e-12)
    return (x / scale).round() * scale


def round_weights(levels: int, group: int | None = None) -> Callable[[Tensor], Tensor]:
    """Make a function that rounds a weight [columns, depth], by a scale for each column or for each group of depth."""

    def rounded(weight: Tensor) -> Tensor:
        parts = weight.float()
        if group and weight.shape[1] % group == 0:
            parts = parts.view(weight.shape[0], -1, group)
        return round_to_levels(parts, levels).view(weight.shape)

    return rounded


def load_rounded(weights: Callable[[Tensor], Tensor], input_levels: int | None = None) -> Decoder:
    """Load the embedded model in float32 with its weights, and the inputs of its products if asked, rounded."""
    pack = CpuOps.pack
    with mock.patch.object(CpuOps, "pack", lambda ops, weight: pack(ops, weights(weight))):
        decoder = load_model("embedded", "cpu", "float32").decoder
    product = decoder.ops.linear

    def linear(x: Tensor, weight: PackedWeight, activate: bool = False) -> Tensor:
        x = torch.nn.functional.gelu(x) if activate else x
        return product(round_to_levels(x, input_levels) if input_levels else x, weight)

    decoder.ops.linear = linear  # type: ignore[method-assign]
    return decoder


def predict(decoder: Decoder, texts: list[Tensor], given: list[Tensor] | None = None) -> tuple[Tensor, list[Tensor]]:
    """Return logits [frames, clips, codebooks, size] and the codes that went in, drawn unless they are `given`."""
    clips, books, size = len(texts), decoder.spec.codebooks, decoder.spec.codebook_size
    generator = torch.Generator().manual_seed(1)
    lengths = torch.tensor([len(text) for text in texts], dtype=torch.int32)
    logits, history, codes = [], [], torch.full((clips, books), size)
    with torch.inference_mode():
        decoder.reserve_positions(FRAMES)
        cache = decoder.allocate_cache(clips, FRAMES, clips, int(lengths.max()))
        for row, text in enumerate(texts):
            decoder.write_text_cache(cache, row, text)
        rows = torch.arange(clips, dtype=torch.int32)
        for frame in range(FRAMES):
            history.append(given[frame] if given else codes)
            tokens = TokenBatch(rows, torch.full_like(rows, frame + 1), clips, lengths, frame + 1)
            logits.append(decoder.logits(decoder.forward(decoder.embed(history[-1]), tokens, cache)))
            drawn = torch.multinomial(logits[-1].softmax(-1).view(-1, size), 1, generator=generator).view(clips, books)
            codes = torch.where(torch.arange(books) <= frame, drawn, size)  # the delay pattern
    return torch.stack(logits), history


def main() -> None:
    """Print a line for each way to round."""
    model = load_model("embedded", "cpu", "float32")
    texts = [model.text.encode(prompt).states for prompt in prompts(CLIPS, None)]
    exact, codes = predict(model.decoder, texts)
    begun = (torch.arange(exact.shape[2]) <= torch.arange(FRAMES)[:, None])[:, None].expand(exact.shape[:3])
    expected = exact.log_softmax(-1)
    following = torch.stack(codes[1:])[begun[:-1]][:, None]

    def loss(likelihoods: Tensor) -> float:
        return -float(likelihoods[:-1][begun[:-1]].gather(-1, following).mean())

    ways = {
        "bfloat16 weights, keys, values": lambda: load_model("embedded", "cpu", "bfloat16").decoder,
        "int8 weights, a scale a column": lambda: load_rounded(round_weights(127)),
        "int8 weights, a scale for 64": lambda: load_rounded(round_weights(127, 64)),
        "int8 weights and inputs": lambda: load_rounded(round_weights(127), 127),
        "int8 weights, inputs of 7 bits": lambda: load_rounded(round_weights(127), 63),
        "int4 weights, a scale for 64": lambda: load_rounded(round_weights(7, 64)),
    }
    print(f"float32: cross-entropy {loss(expected):.5f}")
    print("| numbers | KL divergence | the same likeliest code | cross-entropy |\n|---|---|---|---|")
    for name, load in ways.items():
        found = predict(load(), texts, codes)[0].log_softmax(-1)
        divergence = float((expected.exp() * (expected - found)).sum(-1)[begun].mean())
        same = float((found.argmax(-1) == expected.argmax(-1))[begun].float().mean())
        print(f"| {name} | {divergence:.1e} | {same:.2%} | {loss(found) - loss(expected):+.5f} |", flush=True)


if __name__ == "__main__":
    main()
