"""The sections of a job file and their settings. The text below a setting is what `musicgen settings` says of it."""

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from musicgen.job_keys import suggest_nearest
from musicgen.job_types import (
    MAX_PROMPT,
    RANGES,
    CsvSettings,
    Number,
    PositiveInt,
    PositiveNumber,
    Section,
    UriOrPath,
    Whole,
    make_absolute,
    refuse_secret,
)
from musicgen.request import Request

_DEFAULTS = Request()  # a job that gives no settings has the defaults of a request

AudioFormat = Literal["flac", "wav", "ogg", "mp3"]
AudioLayout = Literal["files", "parquet", "webdataset"]


# The fields of a manifest row by their own names; `manifest.columns` maps them to the manifest's.
ROW_FIELDS = (
    "prompt",
    "id",
    "melody",
    "continuation",
    "duration_s",
    "samples",
    "seed",
    "temperature",
    "top_k",
    "top_p",
    "guidance_scale",
    "negative_prompt",
    "steps",
)


class ManifestSettings(Section):
    """The rows: a file, a folder or a glob of Parquet, JSONL(.gz), CSV(.gz) or TSV(.gz), local or in a store."""

    uri: UriOrPath
    """A path or URI of a file, a folder, or a glob."""
    columns: dict[str, str] = Field(default_factory=dict)
    """Our name of a field -> the manifest's name of the column, such as `{prompt: caption}`."""
    carry: tuple[str, ...] | Literal["all"] = "all"
    """Columns that go into the index as they are, by the manifest's names; `all`: each that is no field of a row."""
    limit: PositiveInt | None = None
    """Take only the first rows."""
    melody_roots: tuple[UriOrPath, ...] = ()
    """Folders that melodies and continuations may come from, besides the manifest's own; with an `s3://` prefix among
    them, objects only from there."""
    csv: CsvSettings = Field(default_factory=CsvSettings)

    @field_validator("columns")
    @classmethod
    def _check_columns(cls, columns: dict[str, str]) -> dict[str, str]:
        for name in columns:
            if name not in ROW_FIELDS:
                raise ValueError(
                    f"`{name}` is no field of a row{suggest_nearest(name, ROW_FIELDS)}; "
                    f"fields are {', '.join(ROW_FIELDS)}"
                )
        doubled = [column for column in columns.values() if list(columns.values()).count(column) > 1]
        if doubled:
            raise ValueError(f"column `{doubled[0]}` is given to more than one field")
        return columns


class ModelSettings(Section):
    """The checkpoint (a preset, a hub name, a folder, an s3:// folder or `embedded`) and how it is run."""

    name: str = Field(default="embedded", min_length=1)
    """A preset (`musicgen models`), a hub name, a folder, or an `s3://` folder."""
    revision: str | None = None
    """A branch, tag or commit on the hub; null: the preset's own, else the main branch."""
    allow_pr: bool = False
    """Take safetensors from a pull request of the hub's own converter, where the revision has none."""
    device: str = Field(default="auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$")
    """`auto` (CUDA where there is one), `cpu`, `cuda` or `cuda:0`."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """The decoder's number type; auto: bfloat16 where the decoder is faster in it, else float32."""

    @field_validator("name")
    @classmethod
    def _check_name(cls, name: str) -> str:
        refuse_secret(name)
        looks_local = name.startswith(("./", "../", "/", "~")) or name in (".", "..")
        return make_absolute(name) if looks_local else name


class GenerationSettings(Section):
    """Settings of rows that have none of their own. `seed` is a salt; a row's own seed replaces it."""

    duration_s: PositiveNumber = _DEFAULTS.duration_s
    """Seconds of a clip."""
    samples: Annotated[Whole, RANGES["samples"].as_field()] = 1
    """Clips of each row, which differ by their seeds."""
    seed: Annotated[Whole, RANGES["seed"].as_field()] = 0
    """A salt: another one gives every row without a seed another clip."""
    temperature: Annotated[Number, RANGES["temperature"].as_field()] = _DEFAULTS.temperature
    """Of sampling; 0 takes the most likely code."""
    top_k: Annotated[Whole, RANGES["top_k"].as_field()] = _DEFAULTS.top_k
    """Sample from so many of the likeliest codes; 0: from all."""
    top_p: Annotated[Number, RANGES["top_p"].as_field()] = _DEFAULTS.top_p
    """Sample from the likeliest codes of this total probability, instead of `top_k`; 0: off."""
    guidance_scale: Annotated[Number, RANGES["guidance_scale"].as_field()] = _DEFAULTS.guidance_scale
    """How strongly prompt and melody are followed; 1: without guidance, at half the cost."""
    negative_prompt: Annotated[str, Field(max_length=MAX_PROMPT)] = _DEFAULTS.negative_prompt
    """AudioLDM 2: what to avoid."""
    steps: Annotated[Whole, RANGES["steps"].as_field()] | None = None
    """AudioLDM 2: steps of denoising; null: the model's own number."""
    stride_s: PositiveNumber = _DEFAULTS.stride_s
    """Seconds that the window moves on in clips that are longer than it."""
    keep_continuation: bool = _DEFAULTS.keep_continuation
    """Whether a continued clip begins with the sound that it continues; false: only the new part."""
    stems: bool = _DEFAULTS.stems
    """Take melodies without their drums and bass, by Demucs (extra `stems`)."""
    allow_unconditional: bool = False
    """Make rows with neither prompt nor melody, instead of refusing them."""
    max_duration_s: Annotated[Number, Field(gt=0, le=36_000)] = 600.0
    """Refuse longer rows as invalid."""

    @model_validator(mode="after")
    def _check_duration(self) -> "GenerationSettings":
        if self.duration_s > self.max_duration_s:
            raise ValueError(
                f"asks for duration_s {self.duration_s:g}, beyond its max_duration_s {self.max_duration_s:g}"
            )
        return self


class AudioSettings(Section):
    """How clips are encoded and laid out in the dataset."""

    format: AudioFormat = "flac"
    """The format of the audio files."""
    layout: AudioLayout = "files"
    """One file a clip, all clips of a shard in its Parquet file, or in a tar (docs/dataset.md)."""
    loudness_lufs: Annotated[Number, Field(ge=-70, le=0)] | None = None
    """Bring every clip to this loudness (ITU-R BS.1770); null: as generated."""
    codes: bool = False
    """Keep the codec's codes in the index."""

    def canonical(self) -> dict[str, object]:
        """Return the part of a clip's key: the encoding without defaults. Layout and codes do not change the sound."""
        form: dict[str, object] = {}
        if self.format != "flac":
            form["format"] = self.format
        if self.loudness_lufs is not None:
            lufs = float(self.loudness_lufs)
            form["loudness_lufs"] = int(lufs) if lufs.is_integer() else lufs
        return form


class OutputSettings(Section):
    """The dataset that the job fills."""

    uri: UriOrPath
    """A folder or `s3://bucket/prefix`."""
    single_writer: bool = False
    """Accept a store that ignores put-if-absent, promising that no second run and no leftover actor writes to it."""
    supersede_unfinished: bool | Literal["ended"] = False
    """Close other jobs' unfinished runs, and plan those of their missing rows that this manifest has; `ended`: not runs
    whose driver is still at work."""
