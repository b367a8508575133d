"""Checks on an engine's own device that a clip's bits depend on its request alone, before the first clip is made."""

import logging
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from musicgen.conditioning.conditions import Branch, Conditions
from musicgen.engine.sequence import GENERATE, Window
from musicgen.engine.stepper import Stepper
from musicgen.model.codec.codec import Codec
from musicgen.model.decoder.decoder import Decoder
from musicgen.model.memory_errors import is_out_of_memory
from musicgen.model.spec import ModelSpec
from musicgen.request import Request

log = logging.getLogger(__name__)

_STEPS = 4  # a captured step is warmed up, captured, and replayed
_STATES = 3  # of text, or of a prefix
_CODEC_FRAMES = 50


def check_reproducible(decoder: Decoder, codec: Codec, slots: int, width: int) -> str:
    """Compare clips with the same clips in other slots, captured steps with eager ones, and a sound with itself.

    "same", or what differs: "slots", "graphs", "codec", with commas; "out of memory" if it could not be done. A
    difference is logged: such an engine's clips are right, but another run may give other bits.
    """
    try:
        differing = _find_differences(decoder, codec, slots, width)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        return "out of memory"
    if differing:
        log.warning("on this device clips may not come out the same bit for bit again: %s differ", ", ".join(differing))
    return ",".join(differing) or "same"


def _find_differences(decoder: Decoder, codec: Codec, slots: int, width: int) -> list[str]:
    straight = _run_clips(decoder, range(slots), slots, width, capture=False)
    differing = []
    if slots > 1:
        order = torch.randperm(slots, generator=torch.Generator().manual_seed(0)).tolist()
        if not _are_equal(straight, _run_clips(decoder, order, slots, width, capture=False)):
            differing.append("slots")
    if decoder.ops.captures_graphs and not _are_equal(
        straight, _run_clips(decoder, range(slots), slots, width, capture=True)
    ):
        differing.append("graphs")
    codes = np.random.default_rng(0).integers(0, decoder.spec.codebook_size, (decoder.spec.codebooks, _CODEC_FRAMES))
    first, second = (codec.decode(codes.astype(np.int16)) for _ in range(2))
    if not np.array_equal(first, second):
        differing.append("codec")
    return differing


@torch.inference_mode()
def _run_clips(decoder: Decoder, order: Sequence[int], slots: int, width: int, capture: bool) -> list[Tensor]:
    """Run a few steps of `slots` clips, clip i in slot order[i]: codes, and keys of the last layer, clip by clip."""
    spec = decoder.spec
    offset = 0 if spec.kind == "text" else _STATES
    stepper = Stepper(decoder, slots, width, offset + _STEPS + 2, capture_steps=capture)
    sequence = np.full((spec.codebooks, _STEPS + 1), GENERATE, np.int32)
    sequence[:, 0] = spec.special_token
    for clip, slot in enumerate(order):
        request = Request(prompt="", seed=clip, top_k=0 if clip % 2 else 50, top_p=0.9 if clip % 3 else 0.0)
        window = Window(0, 0, 1, sequence, known=1)
        stepper.place(slot, window, _make_conditions(spec, clip, width), request)
    stepper.step(_STEPS)
    index = torch.tensor(order, device=decoder.device)
    keys = stepper.cache.layers[-1][0]
    rows = torch.cat([branch * slots + index for branch in range(width)])
    return [stepper.sequence[index].clone(), keys[rows].clone()]


def _make_conditions(spec: ModelSpec, clip: int, width: int) -> Conditions:
    """Random conditions of a clip, as the kind of model has them."""
    generator = torch.Generator().manual_seed(clip)
    states = torch.randn(_STATES, spec.hidden, generator=generator)
    if spec.kind == "text":
        return Conditions((Branch(cross=states), Branch()), 3.0)
    return Conditions((Branch(prefix=states),) * width, 3.0, 2.0)


def _are_equal(first: list[Tensor], second: list[Tensor]) -> bool:
    return all(torch.equal(*pair) for pair in zip(first, second, strict=True))
