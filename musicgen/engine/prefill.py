"""Fills the first positions of the cache's rows: with a prefix, and with codes that are known."""

import torch
from torch import Tensor

from musicgen.model.decoder.decoder import Decoder, KVCache, TokenBatch
from musicgen.model.decoder.ops import RowSpan
from musicgen.model.decoder.triton_ops import TritonOps

PREFILL_TOKENS = 128  # at a time


def fill_row(decoder: Decoder, cache: KVCache, x: Tensor, row: int, text_length: int, start: int = 0) -> None:
    """Write embeddings x [tokens, hidden] to the cache as the first positions of a row, except those before `start`.

    `start` is a multiple of PREFILL_TOKENS: with static shapes a token's bits follow from its place among them.
    """
    for first in range(start, x.shape[0], PREFILL_TOKENS):
        chunk = x[first : first + PREFILL_TOKENS]
        lengths = torch.arange(first + 1, first + chunk.shape[0] + 1, dtype=torch.int32, device=x.device)
        if decoder.ops.static_shapes and chunk.shape[0] < PREFILL_TOKENS:
            # The last token is repeated: it writes the same numbers to the same place again.
            missing = PREFILL_TOKENS - chunk.shape[0]
            chunk = torch.cat([chunk, chunk[-1:].expand(missing, -1)])
            lengths = torch.cat([lengths, lengths[-1:].expand(missing)])
        count = chunk.shape[0]
        rows = torch.full((count,), row, dtype=torch.int32, device=x.device)
        num_with_text = count if text_length else 0
        text_lengths = torch.full((num_with_text,), text_length, dtype=torch.int32, device=x.device)
        tokens = TokenBatch(rows, lengths, num_with_text, text_lengths, longest=first + count)
        decoder.forward(chunk, tokens, cache)


def fill_rows(decoder: Decoder, cache: KVCache, x: Tensor, first: int, stride: int, text_length: int) -> None:
    """Write embeddings x [rows, positions, hidden] to the cache as the first positions of the rows `first`,
    `first + stride`, ..., together.

    Only the first row has text. The shapes follow from the request alone, and so do the bits.
    """
    count, positions, hidden = x.shape
    if not count or not positions:
        return
    rows = torch.arange(count, dtype=torch.int32, device=x.device) * stride + first
    lengths = torch.arange(1, positions + 1, dtype=torch.int32, device=x.device)
    num_with_text = positions if text_length else 0
    tokens = TokenBatch(
        rows=rows.repeat_interleave(positions, output_size=count * positions),
        lengths=lengths.repeat(count),
        num_with_text=num_with_text,
        text_lengths=torch.full((num_with_text,), text_length, dtype=torch.int32, device=x.device),
        longest=positions,
        span=RowSpan(first, stride, count),
    )
    decoder.forward(x.reshape(-1, hidden), tokens, cache)


class SharedPrefix:
    """Keys and values of the prefix `whole` [positions, hidden], with which windows of many requests begin."""

    def __init__(self, decoder: Decoder, whole: Tensor):
        self.whole = whole
        self._decoder = decoder
        self._embedded = whole.to(decoder.device, torch.float32)
        decoder.reserve_positions(whole.shape[0])
        self._cache = decoder.allocate_cache(1, whole.shape[0], 0, 0)
        self._filled = 0  # positions

    def copy_to(self, cache: KVCache, row: int, positions: int) -> None:
        """Make a row of the cache begin with the first positions of the prefix."""
        if positions > self._filled:
            self._fill(positions)
        count = self._decoder.ops.round_capacity(positions)  # whole blocks of the layout
        for layer, shared in zip(cache.layers, self._cache.layers, strict=True):
            for target, source in zip(layer, shared, strict=True):
                numbers = count * source.shape[3]
                target.flatten(2)[row, :, :numbers] = source.flatten(2)[0, :, :numbers]

    def _fill(self, positions: int) -> None:
        """Compute more positions: always the same ones together, so that bits do not depend on who asks first."""
        if isinstance(self._decoder.ops, TritonOps):
            fill_rows(self._decoder, self._cache, self._embedded[None], 0, 1, 0)
            self._filled = self.whole.shape[0]
            return
        end = min(-(-positions // PREFILL_TOKENS) * PREFILL_TOKENS, self.whole.shape[0])
        fill_row(self._decoder, self._cache, self._embedded[:end], 0, 0, start=self._filled)
        self._filled = end
