"""Encodes prompts to text states: T5, FLAN-T5 or CLAP, projected to the decoder's width (Copet et al. 2023, section
3.2).
"""

import json
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

from musicgen.memo import Memo
from musicgen.model.checkpoint.linear import load_linear
from musicgen.model.checkpoint.tensors import Tensors
from musicgen.model.spec import ModelSpec
from musicgen.model.text.t5 import T5Encoder, T5Settings
from musicgen.model.text.tokenizer import PromptTokenizer, TokenCount, count_tokens, open_tokenizer

# T5 was trained on 512 tokens; longer prompts are cut there (a hundred words take about 130).
MAX_TOKENS = 512
_PAD_MULTIPLE = 16  # prompts are padded to a multiple of this: few shapes, little waste
_MAX_REMEMBERED = 256
_NO_TOKENS = TokenCount()  # of an empty prompt, or of a sound in its place


@dataclass(frozen=True, slots=True, eq=False)
class TextStates:
    """The states of one prompt that the decoder attends to: float32 [tokens, hidden], projected, without padding.

    In a checkpoint with a `text_length` states of zero fill the prompt up to it (transformers' `padding="max_length"`).
    An empty prompt is the null condition: `empty`, with states of zero, as in audiocraft.
    """

    states: Tensor  # [tokens, hidden]
    empty: bool = False
    tokens: TokenCount = _NO_TOKENS  # of the prompt before it was cut


class Embedder(Protocol):
    """A text encoder: a prompt to states of the encoder's own width."""

    def __call__(self, prompt: str) -> Tensor:
        """Encode one prompt alone, so that no other prompt can change a bit -> float32 [tokens, text_dim]."""

    def count_tokens(self, prompt: str) -> TokenCount:
        """Count the prompt's tokens, those beyond the encoder's longest input too."""


class TextEncoder:
    """Encodes each distinct prompt once. Safe to use from several threads.

    A prompt is encoded by itself, padded (and masked) to a multiple of 16 tokens, so its states depend on the prompt
    alone. Prompts beyond 512 tokens are cut, as T5's tokenizer does.
    """

    def __init__(
        self,
        embedder: Embedder,
        projection: nn.Linear | None,
        hidden: int,
        length: int = 0,
        device: torch.device | None = None,
    ):
        self.embedder = embedder
        self.projection = projection
        self.hidden = hidden
        self.length = length
        self.device = device
        self._memo: Memo[str, TextStates] = Memo(_MAX_REMEMBERED)
        self._lock = threading.Lock()

    @classmethod
    def load(cls, folder: Path, spec: ModelSpec, tensors: Tensors, device: torch.device) -> "TextEncoder":
        """Load the encoder of a checkpoint, in float32, because T5 overflows in float16. Raises `ModelError`."""
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))["text_encoder"]
        embedder: Embedder
        if spec.text_encoder == "clap":
            from musicgen.model.text.clap import ClapEmbedder

            embedder = ClapEmbedder.load(folder, config, tensors, device)
        else:
            embedder = T5Embedder.load(folder, config, tensors, device)
        projection = None
        if spec.text_projection:
            projection = load_linear(tensors, "enc_to_dec_proj.", spec.text_dim, spec.hidden, device)
        return cls(embedder, projection, spec.hidden, spec.text_length, device)

    @torch.inference_mode()
    def encode(self, prompt: str) -> TextStates:
        """Return the states of one prompt, remembered if it was encoded lately."""
        return self._memo.get(prompt, lambda: self._encode(prompt))

    def _encode(self, prompt: str) -> TextStates:
        with self._lock:  # a tokenizer is not safe to use from several threads
            return self._encode_alone(prompt)

    def _encode_alone(self, prompt: str) -> TextStates:
        if not prompt.strip():
            zeros = torch.zeros(max(1, self.length), self.hidden, device=self.device)
            return TextStates(synchronized(zeros), empty=True)
        states = self.embedder(prompt)  # [tokens, text_dim]
        states = states if self.projection is None else self.projection(states)
        if self.length and len(states) < self.length:
            states = torch.cat([states, states.new_zeros(self.length - len(states), states.shape[1])])
        return TextStates(synchronized(states), tokens=self.embedder.count_tokens(prompt))


def synchronized(states: Tensor) -> Tensor:
    """Wait for this thread's CUDA stream and return `states`: other threads' streams, which do not wait for it, may
    read them.
    """
    if states.is_cuda:
        torch.cuda.current_stream(states.device).synchronize()
    return states


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
        ids = self.tokenizer(prompt, MAX_TOKENS)
        padded = -(-len(ids) // _PAD_MULTIPLE) * _PAD_MULTIPLE
        tokens = torch.zeros(padded, dtype=torch.long, device=self.model.device)
        tokens[: len(ids)] = torch.tensor(ids, device=self.model.device)
        return self.model(tokens, len(ids))[: len(ids)].contiguous()

    def count_tokens(self, prompt: str) -> TokenCount:
        """Count the prompt's tokens, those beyond `MAX_TOKENS` too."""
        return count_tokens(self.tokenizer, prompt)
