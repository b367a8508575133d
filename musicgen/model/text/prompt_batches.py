"""Encodes prompts that are expected beside each other, in batches of a fixed shape."""

from collections import deque

import torch
from torch import Tensor

from musicgen.model.text.t5_embedder import T5Embedder, pad_length
from musicgen.model.text.tokenizer import TokenCount

_ROWS = 8
_MAX_EXPECTED = 4096
_MAX_READY = 256
_CHECKED_LENGTHS = (5, 30)  # in tokens


class PromptBatches:
    """An `Embedder` whose batches always have `_ROWS` rows of one padded length, rows without a prompt included.

    With a fixed shape the kernels are the same ones for every batch, whatever its prompts are; `check_reproducible`
    tries that on the device. Calls come from one thread at a time, `expect` from any.
    """

    def __init__(self, embedder: T5Embedder):
        self.embedder = embedder
        self._told: deque[str] = deque(maxlen=_MAX_EXPECTED)
        self._expected: dict[int, dict[str, list[int]]] = {}  # token ids by prompt, by padded length, oldest first
        self._ready: dict[str, Tensor] = {}

    def expect(self, prompt: str) -> None:
        """Note a prompt that will be asked for."""
        self._told.append(prompt)

    def __call__(self, prompt: str) -> Tensor:
        """Return a prompt's states [tokens, d_model], encoded with others that are expected and as long."""
        if prompt not in self._ready:
            self._encode_beside_others(prompt)
        return self._ready.pop(prompt)

    def count_tokens(self, prompt: str) -> TokenCount:
        """Count the prompt's tokens, those beyond the encoder's longest input too."""
        return self.embedder.count_tokens(prompt)

    @torch.inference_mode()
    def check_reproducible(self) -> bool:
        """Try on this device whether a prompt's states are the same in another row and beside other prompts."""
        for length in _CHECKED_LENGTHS:
            prompts = [[2 + row] * length for row in range(_ROWS)]
            straight = self.embedder.embed_all(prompts, _ROWS)
            turned = self.embedder.embed_all(prompts[::-1], _ROWS)[::-1]
            alone = [self.embedder.embed_all([ids], _ROWS)[0] for ids in prompts]
            for others in (turned, alone):
                if not all(torch.equal(*pair) for pair in zip(straight, others, strict=True)):
                    return False
        return True

    def _encode_beside_others(self, prompt: str) -> None:
        while self._told:
            told = self._told.popleft()
            ids = self.embedder.tokenize(told)
            as_long = self._expected.setdefault(pad_length(len(ids)), {})
            as_long[told] = ids
            if len(as_long) > _MAX_EXPECTED:
                del as_long[next(iter(as_long))]
        ids = self.embedder.tokenize(prompt)
        as_long = self._expected.get(pad_length(len(ids)), {})
        as_long.pop(prompt, None)
        beside = {other: as_long.pop(other) for other in list(as_long)[: _ROWS - 1]}
        states = self.embedder.embed_all([ids, *beside.values()], _ROWS)
        for other in list(self._ready)[: max(0, len(self._ready) - _MAX_READY)]:  # never asked for, as it seems
            del self._ready[other]
        self._ready.update(zip([prompt, *beside], states, strict=True))
