"""A checkpoint's T5 encoder with its tokenizer: prompts to states."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from musicgen.model.checkpoint.tensors import Tensors
from musicgen.model.text.t5 import T5Encoder, T5Settings
from musicgen.model.text.tokenizer import PromptTokenizer, TokenCount, count_tokens, open_tokenizer

# T5 was trained on 512 tokens; longer prompts are cut there (a hundred words take about 130).
MAX_TOKENS = 512
_PAD_MULTIPLE = 16  # prompts are padded to a multiple of this: few shapes, little waste


def pad_length(tokens: int) -> int:
    """Return the length that a prompt of so many tokens is padded to."""
    return -(-tokens // _PAD_MULTIPLE) * _PAD_MULTIPLE


class T5Embedder:
    """T5's encoder of any size; FLAN-T5 differs in its config alone."""

    def __init__(self, model: T5Encoder, tokenizer: PromptTokenizer):
        self.model = model
        self.tokenizer = tokenizer

    @classmethod
    def load(cls, folder: Path, config: dict[str, object], tensors: Tensors, device: torch.device) -> "T5Embedder":
        """Load the T5 encoder under `text_encoder.*`. Raises `ModelError`."""
        label = f"{folder}: text_encoder"
        settings = T5Settings.read(config, label)
        stored = tensors.read("text_encoder.", device, torch.float32)
        # The token table is stored once, under either of its names.
        if (table := stored.get("shared.weight")) is not None:
            stored["encoder.embed_tokens.weight"] = table
        return cls(T5Encoder(settings, stored, label), open_tokenizer(folder, config))

    def __call__(self, prompt: str) -> Tensor:
        """Encode one prompt -> states [tokens, d_model]; the last token is the end of text."""
        return self.embed_all([self.tokenize(prompt)], rows=1)[0]

    def tokenize(self, prompt: str) -> list[int]:
        """Return the prompt's token ids, at most `MAX_TOKENS`."""
        return self.tokenizer(prompt, MAX_TOKENS)

    def embed_all(self, prompts: Sequence[list[int]], rows: int) -> list[Tensor]:
        """Encode prompts given as token ids, as the first of `rows` rows -> states [tokens, d_model] of each."""
        lengths = [len(ids) for ids in prompts] + [1] * (rows - len(prompts))
        tokens = torch.zeros(rows, pad_length(max(lengths)), dtype=torch.long)
        for row, ids in zip(tokens, prompts, strict=False):
            row[: len(ids)] = torch.tensor(ids)
        states = self.model(tokens.to(self.model.device), torch.tensor(lengths, device=self.model.device))
        return [row[: len(ids)].clone() for row, ids in zip(states, prompts, strict=False)]

    def expect(self, prompt: str) -> None:
        """Do nothing: a prompt is encoded when it is asked for."""

    def count_tokens(self, prompt: str) -> TokenCount:
        """Count the prompt's tokens, those beyond `MAX_TOKENS` too."""
        return count_tokens(self.tokenizer, prompt)
