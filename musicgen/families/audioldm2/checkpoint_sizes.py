"""What planning has to know of an AudioLDM 2 checkpoint, from its configs alone, without torch."""

import json
import math
from dataclasses import dataclass
from pathlib import Path

from musicgen.errors import ModelError, RowError
from musicgen.request import COMMON_ROW_FIELDS, DENOISING_ROW_FIELDS, Request

PIPELINE_CLASS = "AudioLDM2Pipeline"
COMPONENTS = (
    "unet",
    "vae",
    "vocoder",
    "text_encoder",
    "text_encoder_2",
    "projection_model",
    "language_model",
    "scheduler",
    "tokenizer",
    "tokenizer_2",
    "feature_extractor",
)
_CONTROLS = ("text", "unconditional")


@dataclass(frozen=True)
class AudioLdm2Spec:
    """Sizes of a checkpoint. A frame is one frame of the mel spectrogram that the vocoder reads."""

    sample_rate: int  # Hz
    frame_rate: float  # spectrogram frames per second
    max_frames: int  # what the checkpoint was trained for
    latent_channels: int
    mel_bins: int
    compression: int  # of the autoencoder, in time and in frequency
    default_steps: int = 200  # the published examples'
    channels: int = 1
    family: str = "audioldm2"
    default_guidance_scale: float = 3.5
    has_codes: bool = False
    accepts_sound_prompt: bool = False

    @property
    def row_fields(self) -> frozenset[str]:
        """See `musicgen.generator_spec.GeneratorSpec`."""
        return COMMON_ROW_FIELDS | DENOISING_ROW_FIELDS

    def supports(self, control: str) -> bool:
        """See `musicgen.generator_spec.GeneratorSpec`."""
        return control in _CONTROLS

    def estimate_speed(self, on_gpu: bool) -> float:
        """See `musicgen.generator_spec.GeneratorSpec`: a guess, since no published checkpoint was run here."""
        return 1.0 if on_gpu else 0.02

    def latent_shape(self, frames: int) -> tuple[int, int, int, int]:
        """Return the shape of the noise for a clip of so many frames, which are rounded up to whole latent ones."""
        return 1, self.latent_channels, math.ceil(frames / self.compression), self.mel_bins // self.compression

    def check_request(self, request: Request) -> None:
        """Raise `RowError` for a request that this model cannot make."""
        if request.melody or request.continuation:
            control = "melody" if request.melody else "continuation"
            raise RowError("invalid", f"AudioLDM 2 takes no {control}; MusicGen's presets do (musicgen models)")
        if request.frames(self.frame_rate) > self.max_frames:
            limit_s = self.max_frames / self.frame_rate
            raise RowError(
                "invalid", f"duration_s {request.duration_s:g} is more than AudioLDM 2 makes, which is {limit_s:g}"
            )


def read_spec(folder: Path) -> AudioLdm2Spec:
    """Read the sizes from a checkpoint's folder. Raises `ModelError` for configs that are missing or unlike AudioLDM
    2's.
    """
    try:
        unet, vae, vocoder = (
            json.loads((folder / name / "config.json").read_text(encoding="utf-8")) for name in COMPONENTS[:3]
        )
        compression = 2 ** (len(vae["block_out_channels"]) - 1)
        frame_rate = vocoder["sampling_rate"] / math.prod(vocoder["upsample_rates"])
        return AudioLdm2Spec(
            sample_rate=int(vocoder["sampling_rate"]),
            frame_rate=frame_rate,
            max_frames=int(unet["sample_size"]) * compression,
            latent_channels=int(unet["in_channels"]),
            mel_bins=int(vocoder["model_in_dim"]),
            compression=compression,
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{folder} is no AudioLDM 2 checkpoint in the published format: {error}") from None
