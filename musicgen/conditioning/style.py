"""The style conditioner: a few seconds of music become a handful of embeddings (Rouard et al. 2024, "Audio Conditioning
for Music Generation via Discrete Bottleneck Features").

A self-supervised encoder (MERT, which is a HuBERT at 24 kHz), a small transformer, a batch norm and a residual
quantizer, of which few levels are used, every 15th frame kept: style gets through, the tune does not. Defined as in
audiocraft's `StyleConditioner`, except that the excerpt is the middle of the first 30 s where audiocraft draws it at
random: a row must sound the same each time.

`facebook/musicgen-style` is published in audiocraft's own format alone. Ours is a checkpoint of `model_type`
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
from typing import IO, Any

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from torch import Tensor, nn
from torch.nn import functional as F

from musicgen.audio.fetch import redact_uri
from musicgen.audio.read import decode_excerpt
from musicgen.conditioning.audio_memo import AudioMemo
from musicgen.conditioning.chroma import CHUNK_S
from musicgen.errors import ModelError
from musicgen.model.checkpoint.tensors import load_parameters
from musicgen.model.load import Model
from musicgen.model.text.encoder import synchronized
from musicgen.request import Request

_REMEMBERED = 256


class StyleSettings(BaseModel):
    """`conditioner` of a style checkpoint's config.json. Defaults are audiocraft's for the published model."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    features: dict[str, Any]  # a HubertConfig
    sample_rate: int = 24_000  # Hz, of the feature encoder
    dim: int = 512
    layers: int = 8
    heads: int = 8
    quantizers: int = 6
    used_quantizers: int = 3  # `eval_q`: more let more of the excerpt through
    bins: int = 1024
    downsample: int = 15
    excerpt_s: float = 3.0  # trained with 1.5 to 4.5 s
    guidance_beta: float = 5.0  # of the double guidance, for rows with text and style


class _StyleLayer(nn.Module):
    def __init__(self, dim: int, heads: int):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.in_proj, self.out_proj = nn.Linear(dim, 3 * dim, bias=False), nn.Linear(dim, dim, bias=False)
        self.linear1, self.linear2 = nn.Linear(dim, 4 * dim, bias=False), nn.Linear(4 * dim, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:  # [T, dim]
        q, k, v = (
            self.in_proj(self.norm1(x)).view(len(x), 3, self.heads, -1).permute(1, 2, 0, 3)
        )  # [heads, T, head dim] each
        weights = torch.softmax(q @ k.transpose(1, 2) / q.shape[-1] ** 0.5, dim=-1)
        x = x + self.out_proj((weights @ v).transpose(0, 1).reshape(len(x), -1))
        return x + self.linear2(F.gelu(self.linear1(self.norm2(x))))


class _FixedBatchNorm(nn.Module):
    """A batch norm without a gain, with the statistics of its training."""

    mean: Tensor
    variance: Tensor

    def __init__(self, dim: int):
        super().__init__()
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("variance", torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:  # [T, dim]
        return (x - self.mean) / torch.sqrt(self.variance + 1e-5)


class StyleNetwork(nn.Module):
    """Excerpt to embeddings. Parameter names are the tensors' names of this module's docstring."""

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
        """Length of the excerpt."""
        return round(self.settings.excerpt_s * self.settings.sample_rate)

    @property
    def positions(self) -> int:
        """How many embeddings an excerpt becomes."""
        frames = int(self.features._get_feat_extract_output_lengths(torch.tensor(self.samples)))
        return -(-frames // self.settings.downsample)

    def forward(self, audio: Tensor) -> Tensor:  # [samples] -> [positions, hidden]
        x = self.embed(self.features(audio[None]).last_hidden_state[0])  # [T, dim]
        x = x + _sinusoidal_positions(len(x), x.shape[1], x.device)
        for layer in self.layers:
            x = layer(x)
        x = _quantize_residual(self.norm(x), self.codebooks[: self.settings.used_quantizers])
        return self.output(x[:: self.settings.downsample])


class StyleEncoder:
    """A loaded style conditioner; each file's excerpt is encoded once. Safe to use from several threads."""

    def __init__(self, network: StyleNetwork, device: torch.device):
        self.network = network.to(device).eval().requires_grad_(False)
        self.device = device
        self.positions = network.positions
        self.beta = network.settings.guidance_beta
        self._memo: AudioMemo[Tensor] = AudioMemo(_REMEMBERED, "style excerpt")

    @classmethod
    def load(cls, model: Model) -> "StyleEncoder":
        """The style conditioner of a checkpoint.

        Raises ModelError: settings wrong, tensors missing or of another shape.
        """
        from transformers.initialization import no_init_weights

        folder = model.checkpoint.folder
        with no_init_weights():  # they are replaced
            network = StyleNetwork(_parse_settings(model.spec.conditioner, str(folder)), model.spec.hidden)
        load_parameters(network, model.tensors.read("style.", "cpu", torch.float32), f"{folder}: style")
        return cls(network, model.device)

    def encode(self, request: Request) -> Tensor:
        """The embeddings [positions, hidden] of the excerpt in `request.melody`. Raises RowError("melody")."""
        uri = request.melody or ""
        return self._memo.get(uri, request.melody_sha256, lambda file: self._encode_file(file, uri))

    @torch.inference_mode()
    def _encode_file(self, file: IO[bytes], uri: str) -> Tensor:
        sample_rate = self.network.settings.sample_rate
        audio = decode_excerpt(
            file, sample_rate=sample_rate, seconds=CHUNK_S, subject="style excerpt", name=redact_uri(uri)
        )[0]
        wanted = self.network.samples
        start = max(0, (len(audio) - wanted) // 2)
        excerpt = np.resize(audio[start : start + wanted], wanted)  # a shorter one is repeated
        return synchronized(self.network(torch.from_numpy(excerpt).to(self.device)).clone())


def _parse_settings(conditioner: Mapping[str, Any], where: str) -> StyleSettings:
    try:
        return StyleSettings.model_validate(dict(conditioner))
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"]))
        raise ModelError(
            f"{where}/config.json: conditioner.{field}: {first['msg']}; see musicgen/conditioning/style.py"
        ) from None


def _sinusoidal_positions(length: int, dim: int, device: torch.device) -> Tensor:
    """Positions as audiocraft embeds them: cos, then sin  # [length, dim]."""
    half = dim // 2
    positions = torch.arange(length, device=device, dtype=torch.float32)[:, None]
    phase = positions / 10_000 ** (torch.arange(half, device=device, dtype=torch.float32) / (half - 1))
    return torch.cat([phase.cos(), phase.sin()], dim=1)


def _quantize_residual(x: Tensor, codebooks: Tensor) -> Tensor:
    """Residual nearest neighbours: x [T, dim], codebooks [levels, bins, dim] -> [T, dim]."""
    total = torch.zeros_like(x)
    for codebook in codebooks:
        nearest = torch.cdist(x - total, codebook).argmin(dim=1)
        total = total + codebook[nearest]
    return total
