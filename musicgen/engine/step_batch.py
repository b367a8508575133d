"""What a decode step runs: the tokens of the live slots, in order, and each clip's sampling parameters."""

from dataclasses import dataclass, replace

import numpy as np
from torch import Tensor

from musicgen.conditioning.conditions import Conditions
from musicgen.engine.sampling import SAMPLING_PARAMS_DTYPE, SamplingParams
from musicgen.model.decoder.decoder import TokenBatch
from musicgen.request import Request


@dataclass(slots=True, eq=False)
class StepBatch:
    """What the coming steps run. Tokens with text come first, so that all others skip cross-attention as one block."""

    slots: Tensor  # int64 [clips]
    clip: Tensor  # int64 [tokens]: which of the clips
    tokens: TokenBatch  # its lengths are advanced in place
    params: SamplingParams
    advance: Tensor  # int64 [clips]: 1, or 0 for an idle slot that only fills a static shape

    def tensors(self) -> list[Tensor]:
        """All tensors. With static shapes they have the same shapes in every batch of a stepper."""
        tokens = self.tokens
        return [
            self.slots,
            self.clip,
            tokens.rows,
            tokens.lengths,
            tokens.text_lengths,
            *self.params.columns.values(),
            self.advance,
        ]

    def copy_into(self, buffers: "StepBatch") -> "StepBatch":
        """Copy this batch into the tensors of another, which captured steps read, and return it with those tensors."""
        for buffer, tensor in zip(buffers.tensors(), self.tensors(), strict=True):
            buffer.copy_(tensor)
        tokens = replace(buffers.tokens, longest=self.tokens.longest)
        return replace(buffers, tokens=tokens, params=replace(self.params, columns=buffers.params.columns))


@dataclass(slots=True, eq=False)
class PlacedWindow:
    """What a slot's batch entries are made of, for as long as the slot holds one window."""

    offset: int  # positions in front of the start token
    step: int  # the step whose codes are read next
    text_lengths: list[int]  # text states by branch
    params: np.void  # of SAMPLING_PARAMS_DTYPE; its rows are filled in with the batch

    def position_after(self) -> int:
        """The next token's position + 1."""
        return self.offset + self.step + 1


def sampling_params(request: Request, conditions: Conditions, window: int) -> np.void:
    """Fill in one clip's row of SAMPLING_PARAMS_DTYPE; the rows of the logits are filled in with the batch."""
    params = np.zeros(1, SAMPLING_PARAMS_DTYPE)
    assert request.seed is not None
    params["scale"], params["beta"] = conditions.scale, conditions.beta
    params["temperature"], params["top_p"], params["top_k"] = request.temperature, request.top_p, request.top_k
    params["window"], params["seed"] = window, request.seed
    row: np.void = params[0]
    return row
