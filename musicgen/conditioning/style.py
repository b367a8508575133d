"""Encodes a few seconds of music as style embeddings (Rouard et al. 2024, "Audio Conditioning for Music Generation via
Discrete Bottleneck Features").

The network is a self-supervised encoder (MERT, which is a HuBERT at 24 kHz), a small transformer, a batch norm and a
residual quantizer of which few levels are used; every 15th frame is kept. This bottleneck lets the style through, but
not the melody. It is defined as in audiocraft's `StyleConditioner`, except that the excerpt is the middle of the first
30 s, where audiocraft draws it at random: a row must give the same clip each time.

`facebook/musicgen-style` is published only in audiocraft's own format. This module reads a checkpoint of `model_type`
`musicgen_style` whose decoder and text encoder are those of a melody checkpoint, with `conditioner` in its config.json
(the fields of `StyleSettings`) and these tensors:

    style.features.*                      transformers' HubertModel of the config `conditioner.features`
    style.embed.{weight,bias}             [dim, features' width]
    style.layers.N.{norm1,norm2}.{weight,bias}, .in_proj.weight [3 dim, dim], .out_proj.weight, .linear1.weight,
    .linear2.weight
    style.norm.{mean,variance}            [dim], the batch norm's running statistics
    style.codebooks                       [quantizers, bins, dim]
    style.output.{weight,bias}            [hidden, dim]
"""

from collections.abc import Mapping
from typing import IO

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from torch import Tensor, nn
from torch.nn import functional as F

from musicgen.audio.read import decode_excerpt
from musicgen.audio.sound_places import redact_uri
from musicgen.conditioning.audio_memo import AudioMemo
from musicgen.conditioning.chroma import CHUNK_S
from musicgen.errors import ModelError
from musicgen.model.checkpoint.tensors import load_parameters
from musicgen.model.load import Model
from musicgen.model.text.encoder import synchronized
from musicgen.request import Request
from musicgen.value_types import JsonObject

_REMEMBERED = 256


class StyleSettings(BaseModel):
    """The section `conditioner` of a style checkpoint's config.json; the defaults are audiocraft's."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    features: JsonObject  # a HubertConfig
    sample_rate: int = 24_000  # Hz, of the feature encoder
    dim: int = 512
    layers: int = 8
    heads: int = 8
    quantizers: int = 6
    used_quantizers: int = 3  # audiocraft's `eval_q`; with more of them the clip follows the excerpt more closely
    bins: int = 1024
    downsample: int = 15
    excerpt_s: float = 3.0  # trained with 1.5 to 4.5 s
    guidance_beta: float = 5.0  # of double guidance, for rows with text and style


class _StyleLayer(nn.Module):
    """A transformer layer with the normalization before each block."""

    def __init__(self, dim: int, heads: int):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.in_proj, self.out_proj = nn.Linear(dim, 3 * dim, bias=False), nn.Linear(dim, dim, bias=False)
        self.linear1, self.linear2 = nn.Linear(dim, 4 * dim, bias=False), nn.Linear(4 * dim, dim, bias=False)

    def forward(self, states: Tensor) -> Tensor:
        """Apply the layer to states [T, dim]."""
        queries, keys, values = (
            self.in_proj(self.norm1(states)).view(len(states), 3, self.heads, -1).permute(1, 2, 0, 3)
        )  # [heads, T, head dim] each
        attention = torch.softmax(queries @ keys.transpose(1, 2) / queries.shape[-1] ** 0.5, dim=-1)
        states = states + self.out_proj((attention @ values).transpose(0, 1).reshape(len(states), -1))
        return states + self.linear2(F.gelu(self.linear1(self.norm2(states))))


class _FixedBatchNorm(nn.Module):
    """A batch norm without a gain, with fixed statistics."""

    mean: Tensor
    variance: Tensor

    def __init__(self, dim: int):
        super().__init__()
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("variance", torch.ones(dim))

    def forward(self, states: Tensor) -> Tensor:
        """Normalize states [T, dim]."""
        return (states - self.mean) / torch.sqrt(self.variance + 1e-5)


class StyleNetwork(nn.Module):
    """Encodes an excerpt as embeddings. The parameters' names are the tensors' names in this module's docstring."""

    codebooks: Tensor

    def __init__(self, settings: StyleSettings, hidden: int):
        super().__init__()
        from transformers import HubertConfig, HubertModel

        config = HubertConfig(**settings.features)
        dim = settings.dim
        self.settings = settings
        self.features = HubertModel(config)
        self.embed = nn.Linear(config.hidden_size, dim)
        self.layers = nn.ModuleList(_StyleLayer(dim, settings.heads) for _ in range(settings.layers))
        self.norm = _FixedBatchNorm(dim)
        self.register_buffer("codebooks", torch.zeros(settings.quantizers, settings.bins, dim))
        self.output = nn.Linear(dim, hidden)

    @property
    def samples(self) -> int:
        """Return the length of the excerpt in samples."""
        return round(self.settings.excerpt_s * self.settings.sample_rate)

    @property
    def positions(self) -> int:
        """Return the number of embeddings of an excerpt."""
        frames = int(self.features._get_feat_extract_output_lengths(torch.tensor(self.samples)))
        return -(-frames // self.settings.downsample)

    def forward(self, audio: Tensor) -> Tensor:
        """Encode audio [samples] as embeddings [positions, hidden]."""
        states = self.embed(self.features(audio[None]).last_hidden_state[0])  # [T, dim]
        states = states + _sinusoidal_positions(len(states), states.shape[1], states.device)
        for layer in self.layers:
            states = layer(states)
        states = _quantize_residual(self.norm(states), self.codebooks[: self.settings.used_quantizers])
        return self.output(states[:: self.settings.downsample])


class StyleEncoder:
    """Encodes style excerpts with a loaded network. Thread-safe; each file is encoded once."""

    def __init__(self, network: StyleNetwork, device: torch.device):
        self.network = network.to(device).eval().requires_grad_(False)
        self.device = device
        self.positions = network.positions
        self.beta = network.settings.guidance_beta
        self._memo: AudioMemo[Tensor] = AudioMemo(_REMEMBERED, "style excerpt")

    @classmethod
    def load(cls, model: Model) -> "StyleEncoder":
        """Load the style conditioner of a checkpoint.

        Raises ModelError for wrong settings and for tensors that are missing or have another shape.
        """
        from transformers.initialization import no_init_weights

        folder = model.checkpoint.folder
        with no_init_weights():  # because all weights are loaded below
            network = StyleNetwork(_parse_settings(model.spec.conditioner, str(folder)), model.spec.hidden)
        load_parameters(network, model.tensors.read("style.", "cpu", torch.float32), f"{folder}: style")
        return cls(network, model.device)

    def encode(self, request: Request) -> Tensor:
        """Encode the excerpt in `request.melody` as embeddings [positions, hidden]. Raises RowError("melody")."""
        uri = request.melody_uri or ""
        return self._memo.get(uri, request.melody_sha256, lambda file: self._encode_file(file, uri))

    @torch.inference_mode()
    def _encode_file(self, file: IO[bytes], uri: str) -> Tensor:
        sample_rate = self.network.settings.sample_rate
        audio = decode_excerpt(
            file, sample_rate=sample_rate, seconds=CHUNK_S, subject="style excerpt", name=redact_uri(uri)
        )[0]
        sample_count = self.network.samples
        start = max(0, (len(audio) - sample_count) // 2)
        excerpt = np.resize(audio[start : start + sample_count], sample_count)  # a shorter one is repeated
        return synchronized(self.network(torch.from_numpy(excerpt).to(self.device)).clone())


def _parse_settings(conditioner: Mapping[str, object], folder: str) -> StyleSettings:
    try:
        return StyleSettings.model_validate(dict(conditioner))
    except ValidationError as error:
        first_error = error.errors()[0]
        field = ".".join(map(str, first_error["loc"]))
        raise ModelError(
            f"{folder}/config.json: conditioner.{field}: {first_error['msg']}; see musicgen/conditioning/style.py"
        ) from None


def _sinusoidal_positions(length: int, width: int, device: torch.device) -> Tensor:
    """Return audiocraft's embeddings of positions, cosines and then sines: [length, width]."""
    half = width // 2
    positions = torch.arange(length, device=device, dtype=torch.float32)[:, None]
    angles = positions / 10_000 ** (torch.arange(half, device=device, dtype=torch.float32) / (half - 1))
    return torch.cat([angles.cos(), angles.sin()], dim=1)


def _quantize_residual(states: Tensor, codebooks: Tensor) -> Tensor:
    """Quantize states [T, dim] to sums of the nearest codes in each of `codebooks` [levels, bins, dim]: [T, dim]."""
    quantized = torch.zeros_like(states)
    for codebook in codebooks:
        nearest = torch.cdist(states - quantized, codebook).argmin(dim=1)
        quantized = quantized + codebook[nearest]
    return quantized
