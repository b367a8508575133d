"""Fills the first positions of the cache's rows: with a prefix, and with codes that are known.

All of it is done in chunks, between which other slots may take their steps. A chunk reads positions of its own rows
alone, and where bits depend on a chunk's size its bounds follow from the row's beginning: a row's bits do not depend on
what runs between its chunks.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from musicgen.model.decoder.decoder import Decoder, KVCache, TokenBatch
from musicgen.model.decoder.ops import RowSpan
from musicgen.model.decoder.triton_ops import TritonOps

PREFILL_TOKENS = 128  # of one row at a time
SPAN_POSITIONS = 256  # of all rows of a slot at a time


class FilledChunk(NamedTuple):
    """So many tokens have gone through all layers, or text states have got their keys and values."""

    tokens: int
    all_layers: bool = True


@dataclass(frozen=True, slots=True, eq=False)
class RowBeginning:
    """What a row begins with: a prefix [positions, hidden], or None, and known codes int64 [steps, codebooks]."""

    prefix: Tensor | None
    codes: Tensor

    def __len__(self) -> int:
        """Positions."""
        return self._prefix_length + self.codes.shape[0]

    @property
    def _prefix_length(self) -> int:
        return 0 if self.prefix is None else self.prefix.shape[0]

    def embed(self, decoder: Decoder, first: int, end: int) -> Tensor:
        """Embed the positions [first, end) -> float32 [positions, hidden]."""
        pieces, split = [], self._prefix_length
        if self.prefix is not None and first < split:
            pieces.append(self.prefix[first : min(end, split)].to(decoder.device, torch.float32))
        if end > split:
            pieces.append(decoder.embed(self.codes[max(0, first - split) : end - split]))
        return torch.cat(pieces)


def fill_row(
    decoder: Decoder,
    cache: KVCache,
    beginning: RowBeginning,
    row: int,
    text_length: int,
    limit: Callable[[], int],
    start: int = 0,
) -> Iterator[FilledChunk]:
    """Write a row's first positions to the cache, except those before `start`; yield each chunk.

    With static shapes a token's bits follow from its place in a chunk: then a chunk has PREFILL_TOKENS, and `start` is
    a multiple of them. Otherwise it has at most `limit()`.
    """
    static, first = decoder.ops.static_shapes, start
    while first < len(beginning):
        end = min(first + (PREFILL_TOKENS if static else limit()), len(beginning))
        chunk = beginning.embed(decoder, first, end)
        lengths = torch.arange(first + 1, end + 1, dtype=torch.int32, device=chunk.device)
        if static and chunk.shape[0] < PREFILL_TOKENS:
            # The last token is repeated: it writes the same numbers to the same place again.
            missing = PREFILL_TOKENS - chunk.shape[0]
            chunk = torch.cat([chunk, chunk[-1:].expand(missing, -1)])
            lengths = torch.cat([lengths, lengths[-1:].expand(missing)])
        count = chunk.shape[0]
        rows = torch.full((count,), row, dtype=torch.int32, device=chunk.device)
        num_with_text = count if text_length else 0
        text_lengths = torch.full((num_with_text,), text_length, dtype=torch.int32, device=chunk.device)
        tokens = TokenBatch(rows, lengths, num_with_text, text_lengths, longest=first + count)
        decoder.forward(chunk, tokens, cache)
        yield FilledChunk(count)
        first = end


def fill_rows(
    decoder: Decoder,
    cache: KVCache,
    beginnings: Sequence[RowBeginning],
    first_row: int,
    stride: int,
    text_length: int,
    start: int = 0,
) -> Iterator[FilledChunk]:
    """Write beginnings of one length to the cache as the first positions of the rows `first_row`, `first_row + stride`,
    ..., together, except those before `start`, a multiple of SPAN_POSITIONS; yield each chunk.

    Only the first row has text.
    """
    count, whole = len(beginnings), len(beginnings[0]) if beginnings else 0
    for first in range(start, whole, SPAN_POSITIONS):
        end = min(first + SPAN_POSITIONS, whole)
        x = torch.cat([beginning.embed(decoder, first, end) for beginning in beginnings])
        rows = torch.arange(count, dtype=torch.int32, device=x.device) * stride + first_row
        num_with_text = end - first if text_length else 0
        tokens = TokenBatch(
            rows=rows.repeat_interleave(end - first, output_size=x.shape[0]),
            lengths=torch.arange(first + 1, end + 1, dtype=torch.int32, device=x.device).repeat(count),
            num_with_text=num_with_text,
            text_lengths=torch.full((num_with_text,), text_length, dtype=torch.int32, device=x.device),
            longest=end,
            span=RowSpan(first_row, stride, count, first),
        )
        decoder.forward(x, tokens, cache)
        yield FilledChunk(x.shape[0])


class SharedPrefix:
    """Keys and values of the prefix `whole` [positions, hidden], with which windows of many requests begin."""

    def __init__(self, decoder: Decoder, whole: Tensor):
        self.whole = whole
        self._decoder = decoder
        self._embedded = whole.to(decoder.device, torch.float32)
        self._no_codes = torch.empty(0, decoder.spec.codebooks, dtype=torch.int64, device=decoder.device)
        decoder.reserve_positions(whole.shape[0])
        self._cache = decoder.allocate_cache(1, whole.shape[0], 0, 0)
        self._filled = 0  # positions

    def fill(self, positions: int, limit: Callable[[], int]) -> Iterator[FilledChunk]:
        """Compute the first positions, as far as they have not been; yield each chunk.

        It is always the same ones together, so that bits do not depend on who asks first.
        """
        together = SPAN_POSITIONS if isinstance(self._decoder.ops, TritonOps) else PREFILL_TOKENS
        end = min(-(-positions // together) * together, self.whole.shape[0])
        beginning = RowBeginning(self._embedded[:end], self._no_codes)
        if end <= self._filled:
            return
        if isinstance(self._decoder.ops, TritonOps):
            yield from fill_rows(self._decoder, self._cache, [beginning], 0, 1, 0, start=self._filled)
        else:
            yield from fill_row(self._decoder, self._cache, beginning, 0, 0, limit, start=self._filled)
        self._filled = end

    def copy_to(self, cache: KVCache, row: int, positions: int) -> None:
        """Make a row of the cache begin with the first positions of the prefix, which have been filled."""
        count = self._decoder.ops.round_capacity(positions)  # whole blocks of the layout
        for layer, shared in zip(cache.layers, self._cache.layers, strict=True):
            for target, source in zip(layer, shared, strict=True):
                numbers = count * source.shape[3]
                target.flatten(2)[row, :, :numbers] = source.flatten(2)[0, :, :numbers]
