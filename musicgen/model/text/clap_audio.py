"""CLAP audio embeddings through the residual quantizer of musicgen/model/text/clap.py: sound in the place of a prompt.

Text and sound share CLAP's space, and MusicGen's CLAP conditioner was trained on sound. The definition is that of
audiocraft's `CLAPEmbeddingConditioner`: mono at 48 kHz, windows of 10 s every second, the mean of their normalized
embeddings, normalized again, quantized. Less than 10 s is repeated and padded (transformers' `ClapFeatureExtractor`,
`repeatpad`). A window is never longer than CLAP's own, so nothing is cropped at random.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from musicgen.model.checkpoint.tensors import Tensors, load_parameters
from musicgen.model.text.clap import quantize_residually

RATE_HZ = 48_000
WINDOW_S, STRIDE_S = 10, 1


class ClapAudioEmbedder:
    """Computes a sound's joint embedding, quantized: [1, dim]."""

    def __init__(self, model: nn.Module, codebooks: list[Tensor], fused: bool):
        from transformers import ClapFeatureExtractor

        self.model = model
        self.codebooks = codebooks
        self._features = ClapFeatureExtractor(truncation="fusion" if fused else "rand_trunc")

    @classmethod
    def load(cls, folder: Path, tensors: Tensors, codebooks: list[Tensor], device: torch.device) -> "ClapAudioEmbedder":
        """Load the audio tower under `text_encoder.*` of the checkpoint in `folder`.

        Raises `ModelError` if it has none.
        """
        from transformers import ClapAudioModelWithProjection, ClapConfig
        from transformers.initialization import no_init_weights

        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))["text_encoder"]
        audio = ClapConfig(**config).audio_config
        with no_init_weights():
            model = ClapAudioModelWithProjection._from_config(audio)
        stored = tensors.read("text_encoder.audio_", device, torch.float32)
        optional = ("relative_position_index", "num_batches_tracked")  # buffers, not weights
        load_parameters(
            model, {f"audio_{name}": value for name, value in stored.items()}, f"{folder}: text_encoder", optional
        )
        return cls(model.to(device, torch.float32).eval(), codebooks, bool(audio.enable_fusion))

    @torch.inference_mode()
    def __call__(self, audio: NDArray[np.float32]) -> Tensor:
        """Embed sound [samples], mono at 48 kHz -> [1, dim]."""
        window, stride = WINDOW_S * RATE_HZ, STRIDE_S * RATE_HZ
        starts = range(0, max(1, len(audio) - window + 1), stride)
        mean = torch.cat([self._embed_window(audio[start : start + window]) for start in starts]).mean(0, keepdim=True)
        return quantize_residually(nn.functional.normalize(mean, dim=-1), self.codebooks)

    def _embed_window(self, audio: NDArray[np.float32]) -> Tensor:
        """Embed at most 10 s of sound -> the normalized embedding [1, dim]."""
        device = next(self.model.parameters()).device
        inputs: Any = self._features(audio, sampling_rate=RATE_HZ, return_tensors="pt").to(device)
        features = inputs["input_features"].to(torch.float32)
        return nn.functional.normalize(
            self.model(input_features=features, is_longer=inputs["is_longer"]).audio_embeds, dim=-1
        )
