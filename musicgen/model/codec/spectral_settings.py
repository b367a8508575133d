"""The settings of the spectral codec, as a checkpoint's `config.json` holds them."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields

from musicgen.errors import ModelError

MODEL_TYPE = "spectral_rvq"


@dataclass(frozen=True)
class SpectralSettings:
    """The section `audio_encoder` of `config.json` for `model_type` "spectral_rvq"."""

    sampling_rate: int = 16_000  # Hz
    hop_length: int = 320  # samples per frame
    n_fft: int = 1024  # samples per window
    n_mels: int = 160
    num_quantizers: int = 4
    codebook_size: int = 1024
    compression: float = 0.5  # the power that band magnitudes are raised to

    @classmethod
    def parse(cls, section: Mapping[str, object], where: str = "config.json") -> "SpectralSettings":
        """Read the settings from a section; missing keys take the defaults.

        `where` names it in errors. Raises `ModelError`.
        """
        values: dict[str, object] = {field.name: section.get(field.name, field.default) for field in fields(cls)}
        for name, value in values.items():
            allowed = (int, float) if name == "compression" else int
            if not isinstance(value, allowed) or isinstance(value, bool) or value <= 0:
                raise ModelError(f"{where}: audio_encoder.{name} is {value!r}; it must be a positive number")
        settings = cls(**values)  # type: ignore[arg-type]  # each was checked above
        if settings.n_fft < 2 * settings.hop_length or (settings.n_fft - settings.hop_length) % 2 or settings.n_fft % 2:
            raise ModelError(
                f"{where}: audio_encoder.n_fft {settings.n_fft} and hop_length {settings.hop_length} do not fit; "
                "windows are even, and "
                "overlap by half at least"
            )
        if settings.n_mels > settings.n_fft // 2 or settings.compression > 1 or settings.codebook_size > 1 << 15:
            raise ModelError(
                f"{where}: audio_encoder has n_mels {settings.n_mels}, compression {settings.compression}, "
                "codebook_size "
                f"{settings.codebook_size}; at most n_fft / 2, 1 and 32768 are possible"
            )
        return settings

    def to_section(self) -> dict[str, object]:
        """Return the section `audio_encoder`, ready for JSON."""
        return {"model_type": MODEL_TYPE, **asdict(self)}

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shapes of the codec's tensors, which a checkpoint holds under `audio_encoder.`."""
        return {
            "codebooks": (self.num_quantizers, self.codebook_size, self.n_mels),
            "mean": (self.n_mels,),
            "scale": (self.n_mels,),
        }
