"""What a decode step runs: the tokens of the live slots, in order, and each clip's sampling parameters."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from musicgen.conditioning.conditions import Conditions
from musicgen.engine.sampling import SAMPLING_PARAMS_DTYPE, SamplingParams
from musicgen.model.decoder.decoder import TokenBatch
from musicgen.request import Request

_ALIGNMENT = 16  # bytes


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

    def with_tensors(self, tensors: list[Tensor]) -> "StepBatch":
        """The same batch with other tensors, in the order of `tensors()`."""
        slots, clip, rows, lengths, text_lengths, *columns, advance = tensors
        named = dict(zip(self.params.columns, columns, strict=True))
        return StepBatch(
            slots=slots,
            clip=clip,
            tokens=replace(self.tokens, rows=rows, lengths=lengths, text_lengths=text_lengths),
            params=replace(self.params, columns=named),
            advance=advance,
        )


class BatchBuffer:
    """Memory of a device in which one batch after the other lies at the same addresses, as captured steps want it."""

    def __init__(self, device: torch.device):
        self._device = device
        self._buffer = torch.empty(0, dtype=torch.uint8)

    def upload(self, batch: StepBatch) -> StepBatch:
        """Copy a batch, which lies on the host and has static shapes, to the device by one copy that nobody waits for.

        torch keeps the pinned memory until the copy has been done.
        """
        tensors = batch.tensors()
        sizes = [-(-tensor.nbytes // _ALIGNMENT) * _ALIGNMENT for tensor in tensors]
        if not len(self._buffer):
            self._buffer = torch.empty(sum(sizes), dtype=torch.uint8, device=self._device)
        packed = torch.zeros(sum(sizes), dtype=torch.uint8, pin_memory=self._device.type == "cuda")
        for piece, tensor in zip(packed.split(sizes), tensors, strict=True):
            piece[: tensor.nbytes] = tensor.view(torch.uint8)
        self._buffer.copy_(packed, non_blocking=True)
        pieces = zip(self._buffer.split(sizes), tensors, strict=True)
        return batch.with_tensors([piece[: tensor.nbytes].view(tensor.dtype) for piece, tensor in pieces])


@dataclass(slots=True, eq=False)
class PlacedWindow:
    """What a slot's batch entries are made of, for as long as the slot holds one window."""

    offset: int  # positions in front of the start token
    step: int  # the step whose codes are read next
    text_lengths: list[int]  # text states by branch
    params: np.void  # of SAMPLING_PARAMS_DTYPE; its rows are filled in with the batch
    is_filling: bool = True  # its first positions are still being computed
    has_stepped: bool = False

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


def build_batch(placed: dict[int, PlacedWindow], slots: int, width: int, static: bool, has_text: bool) -> StepBatch:
    """Build the batch of the placed windows, by slot; with `static` shapes, of every row of every slot, idle ones
    included. It lies on the host.

    `width` is the most branches of a window, `has_text` whether the model attends to text. A window that is still being
    filled is idle; its rows in a static shape write where its own first step will.
    """
    running = {slot: window for slot, window in sorted(placed.items()) if not window.is_filling}
    windows: dict[int, PlacedWindow | None] = (
        {slot: running.get(slot) for slot in range(slots)} if static else dict(running)
    )
    clips: list[int] = []
    rows: list[int] = []
    lengths: list[int] = []
    text_lengths: list[int] = []
    for branch in range(width):
        for clip_index, (slot, window) in enumerate(windows.items()):
            if window is not None and branch < len(window.text_lengths):
                length, text_length = window.position_after(), window.text_lengths[branch]
            elif static:
                length, text_length = 1 if window or slot not in placed else placed[slot].position_after(), 0
            else:
                continue
            clips.append(clip_index)
            rows.append(branch * slots + slot)
            lengths.append(length)
            text_lengths.append(text_length)
    order = list(range(len(rows)))
    if static:
        num_with_text = slots if has_text else 0
    else:
        num_with_text = sum(text_length > 0 for text_length in text_lengths)
        order.sort(key=lambda token: text_lengths[token] == 0)
    tokens = TokenBatch(
        rows=torch.tensor([rows[token] for token in order], dtype=torch.int32),
        lengths=torch.tensor([lengths[token] for token in order], dtype=torch.int32),
        num_with_text=num_with_text,
        text_lengths=torch.tensor([text_lengths[t] for t in order[:num_with_text]], dtype=torch.int32),
        longest=max(lengths, default=0),
    )
    token_of_row = {rows[token]: position for position, token in enumerate(order)}
    return StepBatch(
        slots=torch.tensor(list(windows), dtype=torch.int64),
        clip=torch.tensor([clips[token] for token in order], dtype=torch.int64),
        tokens=tokens,
        params=SamplingParams.from_table(_params_table(windows, slots, token_of_row), torch.device("cpu")),
        advance=torch.tensor([int(window is not None) for window in windows.values()]),
    )


def _params_table(
    windows: dict[int, PlacedWindow | None], slots: int, token_of_row: dict[int, int]
) -> NDArray[np.void]:
    """The sampling parameters of each clip, with the rows of the logits that its branches have; zeros for an idle
    slot.
    """
    table = np.zeros(len(windows), SAMPLING_PARAMS_DTYPE)
    for clip_index, (slot, window) in enumerate(windows.items()):
        if window is not None:
            branches = len(window.text_lengths)
            cond, null = token_of_row[slot], token_of_row[(branches - 1) * slots + slot]
            other = token_of_row[slots + slot] if branches == 3 else cond
            table[clip_index] = window.params
            table[clip_index]["cond"], table[clip_index]["other"], table[clip_index]["null"] = cond, other, null
    return table
