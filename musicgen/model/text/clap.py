"""CLAP text embeddings through a residual quantizer: one state per prompt, for CLAP-conditioned checkpoints.

The definition is that of audiocraft's `CLAPEmbeddingConditioner`: 77 tokens, the normalized joint embedding, quantized
by nearest neighbors (RVQ) so that text and sound look alike to the decoder. No such checkpoint is published in the
Hugging Face format; ours holds a `ClapModel` under `text_encoder.*` (config `model_type: clap`, as transformers writes
it) and the quantizer's codebooks as `text_quantizer.layers.<n>.codebook.embed` [bins, dim]. Without those nothing is
quantized.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from musicgen.model.checkpoint.tensors import Tensors, load_parameters
from musicgen.model.text.tokenizer import TokenCount, TransformersTokenizer, count_tokens, load_tokenizer

MAX_TOKENS = 77
_QUANTIZER = "text_quantizer.layers."


class ClapEmbedder:
    """Computes a prompt's joint embedding, quantized: [1, dim]."""

    def __init__(self, model: nn.Module, tokenizer: Any, codebooks: list[Tensor]):
        self.model = model
        self.tokenizer = tokenizer
        self.codebooks = codebooks

    @classmethod
    def load(cls, folder: Path, config: dict[str, object], tensors: Tensors, device: torch.device) -> "ClapEmbedder":
        """Load the text tower under `text_encoder.*` and its quantizer. Raises `ModelError`."""
        from transformers import ClapConfig, ClapTextModelWithProjection
        from transformers.initialization import no_init_weights

        text = ClapConfig(**config).text_config
        with no_init_weights():
            model = ClapTextModelWithProjection._from_config(text, attn_implementation="eager")
        stored = tensors.read("text_encoder.text_", device, torch.float32)
        load_parameters(
            model,
            {f"text_{name}": value for name, value in stored.items()},
            f"{folder}: text_encoder",
            optional=("_ids",),
        )
        codebooks: list[Tensor] = []
        while f"{_QUANTIZER}{len(codebooks)}.codebook.embed" in tensors.headers:
            name = f"{_QUANTIZER}{len(codebooks)}.codebook."
            codebooks.append(tensors.read(name, device, torch.float32)["embed"])
        return cls(model.to(device, torch.float32).eval(), load_tokenizer(folder, model.config), codebooks)

    def __call__(self, prompt: str) -> Tensor:
        """Embed one prompt -> [1, dim]."""
        device = next(self.model.parameters()).device
        tokens = self.tokenizer(
            prompt, truncation=True, max_length=MAX_TOKENS, padding="max_length", return_tensors="pt"
        )
        embedding = self.model(
            input_ids=tokens["input_ids"].to(device), attention_mask=tokens["attention_mask"].to(device)
        ).text_embeds
        return quantize_residually(nn.functional.normalize(embedding, dim=-1), self.codebooks)

    def expect(self, prompt: str) -> None:
        """Do nothing: a prompt is embedded when it is asked for."""

    def count_tokens(self, prompt: str) -> TokenCount:
        """Count the prompt's tokens, those beyond `MAX_TOKENS` too."""
        return count_tokens(TransformersTokenizer(self.tokenizer), prompt)


def quantize_residually(embedding: Tensor, codebooks: list[Tensor]) -> Tensor:
    """Quantize `embedding` [N, dim] by nearest neighbors, each codebook what is left over (Zeghidour et al. 2021).

    No codebooks leave it as it is. The style conditioner and the spectral codec quantize alike but round differently:
    their codes are fixed by released weights and recorded datasets, so the three do not share this code.
    """
    if not codebooks:
        return embedding
    residual, total = embedding, torch.zeros_like(embedding)
    for codebook in codebooks:
        distance = (residual[:, None] - codebook[None]).square().sum(-1)  # [N, bins]
        nearest = codebook[distance.argmin(-1)]
        residual, total = residual - nearest, total + nearest
    return total
