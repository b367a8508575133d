"""The sizes and the kind of a MusicGen checkpoint, without torch."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from musicgen.request import COMMON_ROW_FIELDS, SAMPLING_ROW_FIELDS, Request

Kind = Literal["text", "melody", "style"]
CODECS = ("encodec", "spectral_rvq")
KINDS: dict[str, Kind] = {"musicgen": "text", "musicgen_melody": "melody", "musicgen_style": "style"}
CONTROLS = ("text", "unconditional", "long", "continuation", "melody", "style", "stereo")


@dataclass(frozen=True)
class ModelSpec:
    """The sizes that planning, loading and the engine need. Frames are codec frames; `max_frames` is one window's."""

    kind: Kind
    sample_rate: int  # Hz
    frame_rate: float  # frames per second
    channels: int  # 1 or 2
    codebooks: int  # of the decoder: stereo has the codec's twice, left and right interleaved
    codebook_size: int  # ids 0 .. codebook_size - 1; codebook_size itself is the special token
    max_frames: int
    layers: int
    hidden: int
    heads: int
    ffn: int
    pattern: str  # a name of musicgen.patterns
    max_positions: int  # of the table of sinusoids; positions beyond it are computed alike
    text_encoder: str  # "t5" (FLAN-T5 too) or "clap"
    text_dim: int  # width of the text states before projection
    text_projection: bool  # whether `enc_to_dec_proj` is there
    chroma_bins: int  # melody checkpoints; 0 elsewhere
    chroma_length: int  # positions of the chroma prefix; 0 elsewhere
    chroma_projection: bool = False  # whether `audio_enc_to_dec_proj` is there
    # melody checkpoints: positions of the text prefix at least, zeros beyond the prompt; 0: as many as it has tokens
    text_length: int = 0
    conditioner: Mapping[str, object] = field(default_factory=dict, hash=False)  # style checkpoints
    codec: str = "encodec"  # one of CODECS

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.hidden // self.heads

    @property
    def accepts_sound_prompt(self) -> bool:
        """Whether a sound can take the prompt's place, because CLAP embeds both alike.

        Rows give it as they give a style excerpt.
        """
        return self.kind == "text" and self.text_encoder == "clap"

    @property
    def family(self) -> str:
        """See `musicgen.generator_spec.GeneratorSpec`."""
        return "musicgen"

    @property
    def row_fields(self) -> frozenset[str]:
        """See `musicgen.generator_spec.GeneratorSpec`."""
        return COMMON_ROW_FIELDS | SAMPLING_ROW_FIELDS | {"melody", "continuation"}

    @property
    def has_codes(self) -> bool:
        """See `musicgen.generator_spec.GeneratorSpec`."""
        return True

    @property
    def default_guidance_scale(self) -> float:
        """See `musicgen.generator_spec.GeneratorSpec`."""
        return Request().guidance_scale

    def estimate_speed(self, on_gpu: bool) -> float:
        """Estimate seconds of audio per second from the decoder's size.

        It is half of the bounds of docs/architecture.md for an H100; a CPU is taken as a hundredth of it.
        """
        parameters = (
            self.layers * (6 * self.hidden**2 + 2 * self.hidden * self.ffn)
            + 2 * self.codebooks * self.codebook_size * self.hidden
        )
        return min(400.0, 60.0 * 1.4e9 / parameters) if on_gpu else min(60.0, 6.0 * 4e8 / parameters)

    @property
    def special_token(self) -> int:
        """The id at steps where a pattern has no code yet."""
        return self.codebook_size

    def supports(self, control: str) -> bool:
        """Whether rows may ask for this control, one of `CONTROLS`."""
        if control == "melody":
            return self.kind == "melody"
        if control == "style":
            return self.kind == "style" or self.accepts_sound_prompt
        if control == "stereo":
            return self.channels == 2
        return control in CONTROLS

    @property
    def controls(self) -> tuple[str, ...]:
        """All controls that the model supports."""
        return tuple(control for control in CONTROLS if self.supports(control))
