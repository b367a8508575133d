"""What planning has to know of a model, of whatever family: its rates, its limits, and what its rows may ask."""

from typing import Protocol


class GeneratorSpec(Protocol):
    """The sizes and abilities of one checkpoint. `musicgen.model.spec.ModelSpec` is MusicGen's."""

    @property
    def family(self) -> str:
        """The name of the model's family: the index column of the same name."""

    @property
    def sample_rate(self) -> int:
        """Samples per second of the sound."""

    @property
    def frame_rate(self) -> float:
        """Frames per second. A clip's duration is counted in whole frames."""

    @property
    def channels(self) -> int:
        """Channels of the sound: 1 or 2."""

    @property
    def max_frames(self) -> int:
        """The longest clip, or the longest window of a model that supports `long`."""

    @property
    def row_fields(self) -> frozenset[str]:
        """The fields of a manifest row that the family reads; a column of any other name is carried."""

    @property
    def default_guidance_scale(self) -> float:
        """The guidance scale of rows and jobs that give none."""

    @property
    def has_codes(self) -> bool:
        """Whether clips have codes, which `audio.codes` keeps and the commands `encode` and `decode` read."""

    @property
    def accepts_sound_prompt(self) -> bool:
        """Whether a sound can take the prompt's place."""

    def supports(self, control: str) -> bool:
        """Whether rows may ask for a control, such as `melody` or `long`."""

    def estimate_speed(self, on_gpu: bool) -> float:
        """Estimate one actor's seconds of audio per second. Only shards' sizes and first estimates depend on it."""
