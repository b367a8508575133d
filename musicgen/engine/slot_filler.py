"""Fills the rows of a slot, in chunks: the text that they attend to, prefixes, and known codes."""

from collections.abc import Iterator

from torch import Tensor

from musicgen.conditioning.conditions import Conditions
from musicgen.engine.prefill import PREFILL_TOKENS, FilledChunk, RowBeginning, SharedPrefix, fill_row, fill_rows
from musicgen.model.decoder.decoder import Decoder, KVCache
from musicgen.model.decoder.triton_ops import TritonOps


class SlotFiller:
    """Fills slots of a cache: slot s has the rows s, `slots` + s, ..., one for each branch.

    `chunk_tokens` bounds the next chunks where their size does not change bits.
    """

    def __init__(self, decoder: Decoder, cache: KVCache, slots: int):
        self.chunk_tokens = PREFILL_TOKENS
        self._decoder, self._cache, self._slots = decoder, cache, slots
        self._shared: SharedPrefix | None = None
        self._all_rows = isinstance(decoder.ops, TritonOps)  # at once

    def fill(self, slot: int, conditions: Conditions, codes: Tensor) -> Iterator[FilledChunk]:
        """Write what a window's rows begin with; yield each chunk.

        `codes` int64 [steps, codebooks] are the known ones.
        """
        text = conditions.branches[0].cross
        text_length = 0 if text is None else text.shape[0]
        self._decoder.write_text_cache(self._cache, slot, text)
        yield FilledChunk(text_length, all_layers=False)
        beginnings = [RowBeginning(branch.prefix, codes) for branch in conditions.branches]
        last, copied, known = (len(beginnings) - 1) * self._slots + slot, 0, codes.shape[0]
        # Rows that are filled together are of one length, so with known codes the whole last row is computed.
        if conditions.branches[-1].shared is not None and not (self._all_rows and known):
            shared, copied = self._find_shared(conditions.branches[-1].shared), conditions.prefix_length
            yield from shared.fill(copied, self._limit)
            shared.copy_to(self._cache, last, copied)
            if not known:
                beginnings = beginnings[:-1]
        if self._all_rows:
            yield from fill_rows(self._decoder, self._cache, beginnings, slot, self._slots, text_length)
            return
        for index, beginning in enumerate(beginnings):
            row, length = index * self._slots + slot, 0 if index else text_length
            start = copied // PREFILL_TOKENS * PREFILL_TOKENS if row == last else 0
            yield from fill_row(self._decoder, self._cache, beginning, row, length, self._limit, start)

    def _limit(self) -> int:
        return self.chunk_tokens

    def _find_shared(self, whole: Tensor) -> SharedPrefix:
        if self._shared is None or self._shared.whole is not whole:
            self._shared = SharedPrefix(self._decoder, whole)
        return self._shared
