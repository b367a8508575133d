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
from musicgen.model.text.prompt_batches import PromptBatches
from musicgen.model.text.t5_embedder import T5Embedder
from musicgen.model.text.tokenizer import TokenCount

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
        """Encode one prompt, so that no other prompt can change a bit -> float32 [tokens, text_dim]."""

    def expect(self, prompt: str) -> None:
        """Be told of a prompt that will be encoded; may do nothing. Another thread than that of the calls may do it."""

    def count_tokens(self, prompt: str) -> TokenCount:
        """Count the prompt's tokens, those beyond the encoder's longest input too."""


class TextEncoder:
    """Encodes each distinct prompt once. Safe to use from several threads.

    A prompt is padded (and masked) to a multiple of 16 tokens and encoded by itself, on CUDA in a batch of a fixed
    shape, so its states depend on the prompt alone. Prompts beyond 512 tokens are cut, as T5's tokenizer does.
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
            if device.type == "cuda":  # its time is in launching kernels; a CPU's bits would be other ones
                batches = PromptBatches(embedder)
                embedder = batches if batches.check_reproducible() else embedder
        projection = None
        if spec.text_projection:
            projection = load_linear(tensors, "enc_to_dec_proj.", spec.text_dim, spec.hidden, device)
        return cls(embedder, projection, spec.hidden, spec.text_length, device)

    def expect(self, prompt: str) -> None:
        """Be told of a prompt that will be encoded soon, so that it may be encoded beside others. Returns at once."""
        if prompt.strip() and prompt not in self._memo:
            self.embedder.expect(prompt)

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
