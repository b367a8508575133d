"""The spectral codec of the embedded model: quantized mel spectra, without torch.

Encoding: compressed mel magnitudes (`mel_bands`) are quantized by residual vector quantization: each codebook quantizes
what the codebooks before it left over. Decoding adds the codebooks' vectors up and reconstructs sound from them.

A clip's sound depends on its codes alone, bit for bit: the one BLAS product, whose order of sums may vary, only
proposes candidates; a sum in float64 and in a fixed order decides between them.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from musicgen.errors import ModelError
from musicgen.model.codec import checks
from musicgen.model.codec.codec import Codes
from musicgen.model.codec.mel_bands import PIECE_FRAMES, MelBands
from musicgen.model.codec.spectral_settings import SpectralSettings

if TYPE_CHECKING:
    from musicgen.model.checkpoint.tensors import Tensors
    from musicgen.model.spec import ModelSpec

_CANDIDATES = 4  # centers whose distances are computed exactly

Float = NDArray[np.float32]


class SpectralCodec:
    """Converts sound to codes and back, clip by clip (a `musicgen.model.codec.codec.Codec`). Safe to use from several
    threads.

    Frame t covers the samples [t * hop, (t + 1) * hop), the middle of a window of `n_fft` samples. Stereo is two mono
    streams whose codebooks interleave (left, right, left, right), as in `EnCodec`. Sound never exceeds full scale: a
    clip that would is scaled down as a whole.

    The result of `musicgen.training.fit_codec.fit_codec` becomes a codec without any folder:

        fitted = fit_codec(clips, SpectralSettings(), seed=0)
        codec = SpectralCodec.from_state(fitted.settings, fitted.tensors)

    and a checkpoint of it has `fitted.settings.to_section()` as `audio_encoder` in config.json, and the tensors in
    model.safetensors with the prefix `audio_encoder.`.
    """

    def __init__(self, settings: SpectralSettings, codebooks: Float, mean: Float, scale: Float, channels: int = 1):
        self.settings = settings
        self.sample_rate = settings.sampling_rate
        self.frame_rate = settings.sampling_rate / settings.hop_length
        self.channels = channels
        self.codebooks = settings.num_quantizers * channels
        self.codebook_size = settings.codebook_size
        self.hop = settings.hop_length
        self.bands = MelBands(settings)
        self._centers = codebooks  # [levels, size, mels]
        self._half_norms = 0.5 * np.einsum("lsm,lsm->ls", codebooks.astype(np.float64), codebooks.astype(np.float64))
        self._mean, self._scale = mean, scale

    @classmethod
    def from_state(
        cls,
        settings: SpectralSettings | Mapping[str, object],
        tensors: Mapping[str, ArrayLike],
        channels: int = 1,
        where: str = "the codec",
    ) -> "SpectralCodec":
        """Build a codec from settings (or a section `audio_encoder`) and tensors of numpy or torch: see
        `SpectralSettings.shapes`.

        Raises `ModelError`: a tensor is missing, of another shape, or not finite.
        """
        if not isinstance(settings, SpectralSettings):
            settings = SpectralSettings.parse(settings, where)
        arrays: dict[str, Float] = {}
        for name, shape in settings.shapes.items():
            if name not in tensors:
                raise ModelError(f"{where} lacks the tensor audio_encoder.{name}; the checkpoint is incomplete")
            arrays[name] = np.ascontiguousarray(np.asarray(tensors[name]), dtype=np.float32)
            if arrays[name].shape != shape:
                raise ModelError(
                    f"{where}: audio_encoder.{name} has the shape {arrays[name].shape}, its config says {shape}; "
                    "config.json and weights do not belong together"
                )
            if not np.isfinite(arrays[name]).all() or (name == "scale" and (arrays[name] <= 0).any()):
                raise ModelError(
                    f"{where}: audio_encoder.{name} holds values that are not finite or not positive; fit the codec "
                    "again"
                )
        return cls(settings, arrays["codebooks"], arrays["mean"], arrays["scale"], channels)

    @classmethod
    def load(cls, folder: Path, spec: "ModelSpec", tensors: "Tensors") -> "SpectralCodec":
        """Load the codec of a checkpoint; it computes on the CPU. Raises `ModelError`."""
        import torch

        section = json.loads((folder / "config.json").read_text(encoding="utf-8"))["audio_encoder"]
        settings = SpectralSettings.parse(section, f"{folder / 'config.json'}")
        if settings.num_quantizers != spec.codebooks // spec.channels:
            raise ModelError(
                f"{folder}: its codec has {settings.num_quantizers} codebooks, the decoder "
                f"{spec.codebooks // spec.channels} "
                "a channel; config.json is wrong"
            )
        return cls.from_state(
            settings, tensors.read("audio_encoder.", "cpu", torch.float32), spec.channels, f"{folder}"
        )

    def encode(self, audio: NDArray[np.float32]) -> NDArray[np.int16]:
        """Encode sound float32 [channels, samples] at `sample_rate` -> codes int16 [codebooks, ceil(samples / hop)].

        Raises ValueError for sound of another shape, empty, or not finite.
        """
        audio = checks.check_audio(audio, self.channels)
        streams = [self._quantize(self.bands.analyze(channel)) for channel in audio]  # [levels, frames] each
        return np.stack(streams, axis=1).reshape(self.codebooks, -1)

    def decode(self, codes: Codes) -> NDArray[np.float32]:
        """Decode codes [codebooks, frames] -> sound float32 [channels, frames * hop], within [-1, 1].

        Raises ValueError for codes of another shape or beyond the codebook.
        """
        codes = checks.check_codes(codes, self.codebooks, self.codebook_size)
        streams = [codes[channel :: self.channels] for channel in range(self.channels)]  # [levels, frames] each
        audio = np.stack([self.bands.synthesize(self.dequantize(stream)) for stream in streams])
        peak = np.abs(audio).max()
        return audio / peak if peak > 1 else audio

    def decode_all(self, clips: Sequence[Codes]) -> list[NDArray[np.float32]]:
        """Decode each clip, one after the other."""
        return [self.decode(codes) for codes in clips]

    def dequantize(self, codes: Codes) -> Float:
        """Look up the compressed band magnitudes [frames, mels] of the codes [levels, frames] of one channel."""
        total = np.zeros((codes.shape[1], self.settings.n_mels), np.float32)
        for centers, ids in zip(self._centers, codes, strict=True):
            total += centers[ids]
        return total * self._scale + self._mean

    def _quantize(self, compressed: Float) -> NDArray[np.int16]:
        """Quantize compressed band magnitudes [frames, mels] -> codes int16 [levels, frames]."""
        codes = np.empty((self.settings.num_quantizers, len(compressed)), np.int16)
        for start in range(0, len(compressed), PIECE_FRAMES):
            residual = (compressed[start : start + PIECE_FRAMES] - self._mean) / self._scale
            for level, centers in enumerate(self._centers):
                ids = self._find_nearest(level, residual)
                codes[level, start : start + len(ids)] = ids
                residual -= centers[ids]
        return codes

    def _find_nearest(self, level: int, residual: Float) -> NDArray[np.intp]:
        """Find the nearest center of each row [frames, mels]: a product in float32 proposes candidates, float64
        decides.
        """
        centers, half_norms = self._centers[level], self._half_norms[level]
        if len(centers) <= _CANDIDATES:
            candidates = np.tile(np.arange(len(centers)), (len(residual), 1))
        else:
            scores = residual @ centers.T - half_norms.astype(np.float32)
            candidates = np.argpartition(scores, -_CANDIDATES, axis=1)[:, -_CANDIDATES:]
            candidates.sort(axis=1)
        products = np.einsum("tm,tcm->tc", residual.astype(np.float64), centers[candidates].astype(np.float64))
        exact = products - half_norms[candidates]
        return np.take_along_axis(candidates, exact.argmax(axis=1)[:, None], axis=1)[:, 0]
