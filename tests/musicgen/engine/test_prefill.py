"""The null prefix that windows share is computed once, and its rows get the same bits as if it were not."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from musicgen.conditioning.conditions import Branch, Conditions
from musicgen.engine.sequence import GENERATE, Window
from musicgen.engine.stepper import Stepper
from musicgen.model.decoder.triton_ops import TritonOps
from musicgen.request import Request
from tests.musicgen.engine.conftest import PATHS


@pytest.mark.parametrize("path", [*PATHS, "triton"])
def test_a_shared_prefix_is_computed_once_and_keeps_its_bits(load: Any, melody_checkpoint: Path, path: str) -> None:
    decoder = copy.copy(load(melody_checkpoint, path.replace("triton", "eager-float32")).decoder)
    if path == "triton":
        pytest.importorskip("triton", reason="no triton")
        decoder.ops = TritonOps(decoder.device, decoder.dtype)
    lengths = (4, 3, 5) if path == "triton" else (140, 131, 150)  # some beyond the first tokens at a time
    generator = torch.Generator().manual_seed(1)
    whole = torch.randn(200 if path != "triton" else 6, decoder.spec.hidden, generator=generator)
    sounds = [torch.randn(length, decoder.spec.hidden, generator=generator) for length in lengths]
    placed = [(sound, 1 if index < 2 else 4) for index, sound in enumerate(sounds)]
    alone, _ = place_all(decoder, placed, whole, shared=False)
    found, tokens = place_all(decoder, placed, whole, shared=True)
    if path == "triton":
        assert tokens == [6 + 4, 3, 2 * (5 + 3)]
        for clip, (sound, known) in enumerate(placed):
            rows = (slice(clip, None, 3), slice(None), slice(len(sound) + known - 1))
            # Its products may have another order where more rows run together.
            torch.testing.assert_close(
                found.cache.layers[-1][1][rows], alone.cache.layers[-1][1][rows], atol=1e-5, rtol=1e-5
            )
    else:
        assert tokens[1] <= 256, "the second window computes its own prefix alone"
        for clip in range(3):
            assert np.array_equal(found.take(clip, 12).read(), alone.take(clip, 12).read())
            blocks = lengths[clip] // 16 * 16  # positions of whole blocks, in whatever layout
            for stores in zip(found.cache.layers[-1], alone.cache.layers[-1], strict=True):
                first, second = (store.flatten(2)[3 + clip, :, : blocks * store.shape[3]] for store in stores)
                assert torch.equal(first, second)
    with pytest.raises(ValueError, match="only the last"):
        Conditions((Branch(prefix=whole, shared=whole), Branch(prefix=whole)), 3.0)


def place_all(decoder: Any, placed: list[tuple[Tensor, int]], whole: Tensor, shared: bool) -> tuple[Stepper, list[int]]:
    """Place windows and run them to their end: the stepper, and the tokens that each placing has run."""
    counted, forward = [], type(decoder).forward
    decoder = copy.copy(decoder)

    def count(x: Tensor, *rest: Any) -> Tensor:
        counted.append(x.shape[0])
        return forward(decoder, x, *rest)

    decoder.forward = count
    stepper, tokens = Stepper(decoder, slots=3, width=2, capacity=192), []
    for slot, (sound, known) in enumerate(placed):
        counted.clear()
        sequence = np.full((4, 12), GENERATE, np.int32)
        sequence[:, :known] = 1
        null = Branch(prefix=whole[: len(sound)], shared=whole if shared else None)
        window = Window(0, 0, 8, sequence, known)
        stepper.place(slot, window, Conditions((Branch(prefix=sound), null), 3.0), Request(prompt="x", seed=slot))
        tokens.append(sum(counted))
    if not isinstance(decoder.ops, TritonOps):
        stepper.step(8)
    return stepper, tokens
