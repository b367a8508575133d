"""EnCodec (Défossez et al. 2022), the codec of the published checkpoints.

The 32 kHz EnCodec of MusicGen is not causal, and has an LSTM between its convolutions. A long clip is worked through in
pieces: the LSTM runs over the whole clip (its states are as small as the sound itself), the convolutions, whose
activations are sixty times larger, over pieces with enough context on both sides that no seam can be heard or measured.
"""

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from musicgen.errors import ModelError
from musicgen.model.checkpoint.tensors import Tensors, load_parameters
from musicgen.model.codec import checks
from musicgen.model.codec.codec import Codes
from musicgen.model.codec.seanet import Stage, build_stages
from musicgen.model.spec import ModelSpec

PIECE_FRAMES = 100  # two seconds: activations of 16 MB, which an allocator keeps and a cache half holds

CONTEXT_FRAMES = 4  # the convolutions around the LSTM reach three frames to either side


class EnCodec:
    """transformers' EnCodec, clip by clip: a clip's sound depends on its codes alone, not on what else is decoded.

    Stereo is two mono streams whose codebooks interleave: left, right, left, right (audiocraft's
    `InterleaveStereoCompressionModel`). Safe to use from several threads.
    """

    def __init__(self, model: Any, spec: ModelSpec):
        self.model = model
        self.sample_rate = spec.sample_rate
        self.frame_rate = spec.frame_rate
        self.channels = spec.channels
        self.codebooks = spec.codebooks
        self.codebook_size = spec.codebook_size
        self.hop = round(spec.sample_rate / spec.frame_rate)  # samples per frame
        self._stages = build_stages(model.decoder.layers) if self._device().type == "cpu" else None

    @classmethod
    def load(cls, folder: Path, spec: ModelSpec, tensors: Tensors, device: torch.device) -> "EnCodec":
        """The codec of a checkpoint, float32, weight norm folded in. Raises `ModelError`."""
        from transformers import EncodecConfig, EncodecModel
        from transformers.initialization import no_init_weights

        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))["audio_encoder"]
        codec_config = EncodecConfig(**config)
        if codec_config.num_quantizers < spec.codebooks // spec.channels:
            raise ModelError(
                f"{folder}: its EnCodec has {codec_config.num_quantizers} codebooks, the decoder {spec.codebooks // spec.channels} "
                "a channel; config.json is wrong"
            )
        with no_init_weights():  # seconds, for weights that are replaced
            model = EncodecModel(codec_config)
        found = tensors.read("audio_encoder.", "cpu", torch.float32)
        # Training's running counts are not needed to run it.
        load_parameters(
            model,
            {_modern(name): value for name, value in found.items()},
            f"{folder}: audio_encoder",
            optional=("codebook.inited", "codebook.cluster_size", "codebook.embed_avg"),
        )
        for module in model.modules():
            if nn.utils.parametrize.is_parametrized(module):
                nn.utils.parametrize.remove_parametrizations(module, "weight")
        return cls(model.to(device).eval().requires_grad_(False), spec)

    def decode(self, codes: Codes) -> NDArray[np.float32]:
        """Sound float32 [channels, frames * hop] of codes [codebooks, frames].

        Raises ValueError for codes of another shape or beyond the codebook.
        """
        return self.decode_all([codes])[0]

    @torch.inference_mode()
    def decode_all(self, clips: Sequence[Codes]) -> list[NDArray[np.float32]]:
        """`decode` of each clip, in less time: the LSTM's weights are read once for all of them. The same bits."""
        latents = [self._latents(codes) for codes in clips]  # [channels, dim, frames] each
        if self._stages is None:
            return [self._modules(clip) for clip in latents]
        # Reflection needs more frames than it reflects.
        streams = [
            stream.T for clip in latents if clip.shape[-1] > CONTEXT_FRAMES for stream in clip
        ]  # [frames, dim] each
        sound = self._matrices(streams)
        return [
            np.stack([next(sound) for _ in clip]) if clip.shape[-1] > CONTEXT_FRAMES else self._modules(clip)
            for clip in latents
        ]

    def _matrices(self, streams: Sequence[Tensor]) -> Iterator[NDArray[np.float32]]:
        """Latents [frames, dim] -> samples [frames * hop], of several streams, by matrix products."""
        if not streams:
            return
        assert self._stages is not None
        before, recurrence, behind = self._stages
        for states in recurrence([_run(before, stream.contiguous()) for stream in streams]):
            yield _in_pieces(behind, states, 1, self.hop, dim=0)[:, 0].numpy()

    def _modules(self, latents: Tensor) -> NDArray[np.float32]:
        """Latents [channels, dim, frames] -> sound [channels, frames * hop], by transformers' modules."""
        return self._split(list(self.model.decoder.layers), latents, up=True)[:, 0].cpu().numpy()

    def _latents(self, codes: Codes) -> Tensor:
        """What the codes stand for: [channels, dim, frames]."""
        codes = checks.check_codes(codes, self.codebooks, self.codebook_size)
        ids = torch.from_numpy(codes.astype(np.int64)).to(self._device())
        # Codebook k of channel c is row k * channels + c.
        streams = ids.view(-1, self.channels, ids.shape[-1]).permute(1, 0, 2)  # [channels, codebooks a channel, frames]
        return self.model.quantizer.decode(streams.transpose(0, 1))

    @torch.inference_mode()
    def encode(self, audio: NDArray[np.float32]) -> NDArray[np.int16]:
        """Codes int16 [codebooks, ceil(samples / hop)] of sound float32 [channels, samples] at `sample_rate`.

        Raises ValueError for sound of another shape, empty, or not finite.
        """
        audio = checks.check_audio(audio, self.channels)
        waves = torch.from_numpy(audio)[:, None].to(self._device())  # [channels, 1, samples]
        latents = self._split(list(self.model.encoder.layers), waves, up=False)  # [channels, dim, frames]
        streams = self.model.quantizer.encode(latents)[
            : self.codebooks // self.channels
        ]  # [codebooks a channel, channels, frames]
        return streams.reshape(self.codebooks, -1).to(torch.int16).cpu().numpy()

    def _device(self) -> torch.device:
        return self.model.quantizer.layers[0].codebook.embed.device

    def _split(self, layers: list[Stage], states: Tensor, up: bool) -> Tensor:
        """Run the layers [channels, features, time], those around the LSTM in pieces of time."""
        lstm = self._lstm(layers)
        fine_in, fine_out = (1, self.hop) if up else (self.hop, 1)
        states = layers[lstm](_in_pieces(layers[:lstm], states, fine_in, 1))
        return _in_pieces(layers[lstm + 1 :], states, 1, fine_out)

    @staticmethod
    def _lstm(layers: Iterable[Any]) -> int:
        return next(i for i, layer in enumerate(layers) if type(layer).__name__ == "EncodecLSTM")


def _in_pieces(layers: Sequence[Stage], states: Tensor, fine_in: int, fine_out: int, dim: int = -1) -> Tensor:
    """Run convolutions over pieces of `PIECE_FRAMES` frames of dimension `dim` with context, and join what lies between.

    `fine_in` and `fine_out` are the samples per frame of input and output. The ends of the clip are pieces' ends too, so
    that reflection happens where it does in one go; ends within the clip are reflected as well, but lie in the context.
    """
    frames = -(-states.shape[dim] // fine_in)
    if frames <= PIECE_FRAMES + 2 * CONTEXT_FRAMES:
        return _run(layers, states)
    pieces = []
    for start in range(0, frames, PIECE_FRAMES):
        end = min(frames, start + PIECE_FRAMES)
        left, right = max(0, start - CONTEXT_FRAMES), min(frames, end + CONTEXT_FRAMES)
        samples = min(states.shape[dim], right * fine_in) - left * fine_in
        out = _run(layers, states.narrow(dim, left * fine_in, samples))
        pieces.append(out.narrow(dim, (start - left) * fine_out, (end - start) * fine_out).clone())
    return torch.cat(pieces, dim=dim)


def _run(layers: Sequence[Stage], states: Tensor) -> Tensor:
    for layer in layers:
        states = layer(states)
    return states


def _modern(name: str) -> str:
    """Weight norm's parameters were `weight_g` and `weight_v` when most checkpoints were saved."""
    name = re.sub(r"\.weight_g$", ".parametrizations.weight.original0", name)
    return re.sub(r"\.weight_v$", ".parametrizations.weight.original1", name)
