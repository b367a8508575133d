"""EnCodec (Défossez et al. 2022), the codec of the published checkpoints.

The 32 kHz EnCodec of MusicGen is not causal and has an LSTM between its convolutions. The LSTM runs over a whole clip:
its states are as small as the sound itself. The convolutions, whose activations are sixty times larger, run over pieces
of the clip with so much context on both sides that no seam can be measured.
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

PIECE_FRAMES = (
    100  # two seconds: activations of 16 MB, which an allocator reuses and half of which fit a processor's cache
)
CONTEXT_FRAMES = 4  # the convolutions around the LSTM reach three frames to either side


class EnCodec:
    """transformers' EnCodec, clip by clip: a clip's sound depends on its codes alone, not on other clips of a batch.

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
        self._stages = build_stages(model.decoder.layers)

    @classmethod
    def load(cls, folder: Path, spec: ModelSpec, tensors: Tensors, device: torch.device) -> "EnCodec":
        """Load the codec of a checkpoint, float32, weight norm folded into the weights. Raises `ModelError`."""
        from transformers import EncodecConfig, EncodecModel
        from transformers.initialization import no_init_weights

        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))["audio_encoder"]
        codec_config = EncodecConfig(**config)
        if codec_config.num_quantizers < spec.codebooks // spec.channels:
            raise ModelError(
                f"{folder}: its EnCodec has {codec_config.num_quantizers} codebooks, the decoder "
                f"{spec.codebooks // spec.channels} "
                "a channel; config.json is wrong"
            )
        with no_init_weights():  # seconds, for weights that are replaced
            model = EncodecModel(codec_config)
        stored = tensors.read("audio_encoder.", "cpu", torch.float32)
        # Training's running counts are not needed to run it.
        load_parameters(
            model,
            {_rename_weight_norm(name): value for name, value in stored.items()},
            f"{folder}: audio_encoder",
            optional=("codebook.inited", "codebook.cluster_size", "codebook.embed_avg"),
        )
        for module in model.modules():
            if nn.utils.parametrize.is_parametrized(module):
                nn.utils.parametrize.remove_parametrizations(module, "weight")
        return cls(model.to(device).eval().requires_grad_(False), spec)

    def decode(self, codes: Codes) -> NDArray[np.float32]:
        """Decode codes [codebooks, frames] -> sound float32 [channels, frames * hop].

        Raises ValueError for codes of another shape or beyond the codebook.
        """
        return self.decode_all([codes])[0]

    @torch.inference_mode()
    def decode_all(self, clips: Sequence[Codes]) -> list[NDArray[np.float32]]:
        """Decode each clip to the same bits as `decode`, in less time: the LSTM's weights are read once for all."""
        latents = [self._look_up_latents(codes) for codes in clips]  # [channels, dim, frames] each
        if self._stages is None:
            return [self._decode_by_modules(clip) for clip in latents]
        # Reflection needs more frames than it reflects.
        streams = [
            stream.T for clip in latents if clip.shape[-1] > CONTEXT_FRAMES for stream in clip
        ]  # [frames, dim] each
        sound = self._decode_by_products(streams)
        return [
            np.stack([next(sound) for _ in clip]) if clip.shape[-1] > CONTEXT_FRAMES else self._decode_by_modules(clip)
            for clip in latents
        ]

    def _decode_by_products(self, streams: Sequence[Tensor]) -> Iterator[NDArray[np.float32]]:
        """Decode latents [frames, dim] of several streams -> samples [frames * hop] each, by matrix products."""
        if not streams:
            return
        assert self._stages is not None
        before, recurrence, behind = self._stages
        for states in recurrence([_run_layers(before, stream.contiguous()) for stream in streams]):
            yield _run_in_pieces(behind, states, 1, self.hop, dim=0)[:, 0].cpu().numpy()

    def _decode_by_modules(self, latents: Tensor) -> NDArray[np.float32]:
        """Decode latents [channels, dim, frames] -> sound [channels, frames * hop], by transformers' modules."""
        return self._run_around_lstm(list(self.model.decoder.layers), latents, up=True)[:, 0].cpu().numpy()

    def _look_up_latents(self, codes: Codes) -> Tensor:
        """Look up the latents [channels, dim, frames] of codes."""
        codes = checks.check_codes(codes, self.codebooks, self.codebook_size)
        ids = torch.from_numpy(codes.astype(np.int64)).to(self._device())
        # Codebook k of channel c is row k * channels + c.
        streams = ids.view(-1, self.channels, ids.shape[-1]).permute(1, 0, 2)  # [channels, codebooks a channel, frames]
        return self.model.quantizer.decode(streams.transpose(0, 1))

    @torch.inference_mode()
    def encode(self, audio: NDArray[np.float32]) -> NDArray[np.int16]:
        """Encode sound float32 [channels, samples] at `sample_rate` -> codes int16 [codebooks, ceil(samples / hop)].

        Raises ValueError for sound of another shape, empty, or not finite.
        """
        audio = checks.check_audio(audio, self.channels)
        waves = torch.from_numpy(audio)[:, None].to(self._device())  # [channels, 1, samples]
        latents = self._run_around_lstm(list(self.model.encoder.layers), waves, up=False)  # [channels, dim, frames]
        streams = self.model.quantizer.encode(latents)[
            : self.codebooks // self.channels
        ]  # [codebooks a channel, channels, frames]
        return streams.reshape(self.codebooks, -1).to(torch.int16).cpu().numpy()

    def _device(self) -> torch.device:
        return self.model.quantizer.layers[0].codebook.embed.device

    def _run_around_lstm(self, layers: list[Stage], states: Tensor, up: bool) -> Tensor:
        """Run the layers over states [channels, features, time]: the LSTM at once, the layers around it in pieces of
        time.
        """
        lstm = self._lstm_index(layers)
        fine_in, fine_out = (1, self.hop) if up else (self.hop, 1)
        states = layers[lstm](_run_in_pieces(layers[:lstm], states, fine_in, 1))
        return _run_in_pieces(layers[lstm + 1 :], states, 1, fine_out)

    @staticmethod
    def _lstm_index(layers: Iterable[Any]) -> int:
        return next(i for i, layer in enumerate(layers) if type(layer).__name__ == "EncodecLSTM")


def _run_in_pieces(layers: Sequence[Stage], states: Tensor, fine_in: int, fine_out: int, dim: int = -1) -> Tensor:
    """Run convolutions over pieces of `PIECE_FRAMES` frames of dimension `dim` with context, and join the pieces.

    `fine_in` and `fine_out` are the samples per frame of input and output. Padding by reflection happens at the ends of
    each piece: at the clip's ends it is what an undivided run would do, elsewhere it lies in the context, which is cut
    off.
    """
    frames = -(-states.shape[dim] // fine_in)
    if frames <= PIECE_FRAMES + 2 * CONTEXT_FRAMES:
        return _run_layers(layers, states)
    pieces = []
    for start in range(0, frames, PIECE_FRAMES):
        end = min(frames, start + PIECE_FRAMES)
        left, right = max(0, start - CONTEXT_FRAMES), min(frames, end + CONTEXT_FRAMES)
        samples = min(states.shape[dim], right * fine_in) - left * fine_in
        out = _run_layers(layers, states.narrow(dim, left * fine_in, samples))
        pieces.append(out.narrow(dim, (start - left) * fine_out, (end - start) * fine_out).clone())
    return torch.cat(pieces, dim=dim)


def _run_layers(layers: Sequence[Stage], states: Tensor) -> Tensor:
    for layer in layers:
        states = layer(states)
    return states


def _rename_weight_norm(name: str) -> str:
    """Rename weight norm's `weight_g` and `weight_v`, under which most checkpoints are stored, to torch's names."""
    name = re.sub(r"\.weight_g$", ".parametrizations.weight.original0", name)
    return re.sub(r"\.weight_v$", ".parametrizations.weight.original1", name)
