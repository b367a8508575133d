"""The settings of a run as one pydantic model, `Job`: the job file (README.md), flags and `--set` overrides."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, ValidationError, field_validator, model_validator

from musicgen.errors import JobError
from musicgen.job_errors import describe_errors
from musicgen.job_file import JobDocument
from musicgen.job_keys import known_keys, suggest_nearest
from musicgen.job_types import (
    RANGES,
    Auto,
    Number,
    PositiveInt,
    PositiveNumber,
    Section,
    UriOrPath,
    Whole,
    make_absolute,
    refuse_secret,
)
from musicgen.presets import resolve_config
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
)


class ManifestSettings(Section):
    """The rows: a file, a folder or a glob of Parquet, JSONL(.gz) or CSV(.gz), local or in a store."""

    uri: UriOrPath
    columns: dict[str, str] = Field(default_factory=dict)  # our name -> the manifest's name
    limit: PositiveInt | None = None  # only the first rows
    melody_roots: tuple[UriOrPath, ...] = ()  # local folders that melodies may come from, besides the manifest's own

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
    revision: str | None = None
    device: str = Field(default="auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"

    @field_validator("name")
    @classmethod
    def _check_name(cls, name: str) -> str:
        refuse_secret(name)
        looks_local = name.startswith(("./", "../", "/", "~")) or name in (".", "..")
        return make_absolute(name) if looks_local else name


class GenerationSettings(Section):
    """Settings of rows that have none of their own. `seed` is a salt; a row's own seed replaces it."""

    duration_s: PositiveNumber = _DEFAULTS.duration_s
    samples: Annotated[Whole, RANGES["samples"].as_field()] = 1
    seed: Annotated[Whole, RANGES["seed"].as_field()] = 0
    temperature: Annotated[Number, RANGES["temperature"].as_field()] = _DEFAULTS.temperature  # 0 is argmax
    top_k: Annotated[Whole, RANGES["top_k"].as_field()] = _DEFAULTS.top_k  # 0: no limit
    top_p: Annotated[Number, RANGES["top_p"].as_field()] = _DEFAULTS.top_p  # 0: off; else it replaces top_k
    guidance_scale: Annotated[Number, RANGES["guidance_scale"].as_field()] = _DEFAULTS.guidance_scale  # 1: no guidance
    stride_s: PositiveNumber = _DEFAULTS.stride_s  # of the sliding window, for clips longer than it
    keep_continuation: bool = _DEFAULTS.keep_continuation  # false: only the new part of a continued clip
    stems: bool = _DEFAULTS.stems  # true: melodies without their drums and bass, by Demucs (extra `stems`)
    allow_unconditional: bool = False  # rows with neither prompt nor melody
    max_duration_s: Annotated[Number, Field(gt=0, le=36_000)] = 600.0  # longer rows are refused as invalid

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
    layout: AudioLayout = "files"
    loudness_lufs: Annotated[Number, Field(ge=-70, le=0)] | None = None  # null: as generated
    codes: bool = False  # keep the codec's codes in the index

    def canonical(self) -> dict[str, object]:
        """Return the part of a clip's key: the encoding without defaults. Layout and codes do not change the sound."""
        form: dict[str, object] = {}
        if self.format != "flac":
            form["format"] = self.format
        if self.loudness_lufs is not None:
            lufs = float(self.loudness_lufs)
            form["loudness_lufs"] = int(lufs) if lufs.is_integer() else lufs
        return form


class ActorRange(Section):
    """Between `min` and `max` actors, as many as the cluster has room for."""

    min: PositiveInt = 1
    max: PositiveInt

    @model_validator(mode="after")
    def _check_order(self) -> "ActorRange":
        if self.min > self.max:
            raise ValueError(f"has min {self.min}, more than max {self.max}")
        return self


class ClusterSettings(Section):
    """Where the job runs, and on how many actors. Nothing here changes a clip, a key or a run's name."""

    # auto: the cluster of RAY_ADDRESS, else a local one
    address: Annotated[str, Field(min_length=1), AfterValidator(refuse_secret)] = "auto"
    actors: PositiveInt | ActorRange = 1
    gpus_per_actor: Annotated[Number, Field(ge=0)] | Auto = "auto"
    cpus_per_actor: Annotated[Number, Field(ge=0)] | Auto = "auto"
    slots: Annotated[Whole, Field(ge=1, le=4096)] | Auto = "auto"
    shard_rows: PositiveInt | Auto = "auto"  # auto: a few minutes of work
    attempts: PositiveInt = (
        3  # of a shard that meets storage faults, before it is given up; a crash is tried once more, then bisected
    )
    heartbeat_s: PositiveNumber = 5.0
    silent_after_s: PositiveNumber = 300.0  # an actor without a heartbeat this long is replaced
    start_timeout_s: PositiveNumber = 1800.0  # for an actor to fetch and load the model

    @property
    def min_actors(self) -> int:
        """The fewest actors the job runs with."""
        return self.actors.min if isinstance(self.actors, ActorRange) else self.actors

    @property
    def max_actors(self) -> int:
        """The most actors the job may grow to."""
        return self.actors.max if isinstance(self.actors, ActorRange) else self.actors


class OutputSettings(Section):
    """The dataset that the job fills."""

    uri: UriOrPath
    single_writer: bool = False  # accept a store that ignores put-if-absent: no second driver, no zombie
    supersede_unfinished: bool = False  # close other jobs' unfinished runs and plan their missing rows anew


# Flags of the command line and the key each one sets.
FLAGS: Mapping[str, str] = {
    "manifest": "manifest.uri",
    "output": "output.uri",
    "model": "model.name",
    "limit": "manifest.limit",
    "actors": "cluster.actors",
}


class Job(Section):
    """A job: the sections of a job file."""

    manifest: ManifestSettings
    model: ModelSettings = Field(default_factory=ModelSettings)
    generation: GenerationSettings = Field(default_factory=GenerationSettings)
    audio: AudioSettings = Field(default_factory=AudioSettings)
    cluster: ClusterSettings = Field(default_factory=ClusterSettings)
    output: OutputSettings

    @classmethod
    def load(cls, path: str | Path | None = None, overrides: Sequence[str] = (), **flags: object) -> "Job":
        """Read a job from a YAML file (or from flags alone), with `section.key=value` overrides and flags on top.

        `flags` are those of `FLAGS`; None means not given. The order of precedence is flag, override, file. Relative
        paths are relative to the working directory; a job file or manifest `configs/...` that is not there is taken
        from the package. Raises `JobError`, with one line, which holds no secret.
        """
        unknown = set(flags) - set(FLAGS)
        if unknown:
            raise TypeError(f"no such flag of a job: {', '.join(sorted(unknown))}")
        document = JobDocument.read(resolve_config(path)) if path is not None else JobDocument()
        for override in overrides:
            document.override(override)
        for flag, value in flags.items():
            if value is not None:
                document.set(FLAGS[flag], value, origin=f"--{flag}")
        document.check_keys(known_keys(cls))
        values = document.expand_variables()
        for section, flag in (("manifest", "--manifest"), ("output", "--output")):
            settings = values.get(section)
            if not (isinstance(settings, Mapping) and "uri" in settings):
                where = document.origin((section,))
                raise JobError(f"{where}the job names no {section}: give {flag} URI or `{section}.uri` in the job file")
            if section == "manifest" and isinstance(uri := settings["uri"], str):
                values[section] = {**settings, "uri": resolve_config(uri)}
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise JobError(describe_errors(error, document)) from None
