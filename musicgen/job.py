"""The job: everything a person says about a run, as one pydantic model (docs: the job file in README.md).

`Job.load` reads the YAML file, applies flags and `--set` overrides, and raises `JobError` with one clear line.
"""

import difflib
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator, model_validator

from musicgen.errors import JobError
from musicgen.job_file import JobDocument, redact_credentials, reveals_secret

MAX_SEED = (1 << 63) - 1

AudioFormat = Literal["flac", "wav", "ogg", "mp3"]
AudioLayout = Literal["files", "parquet", "webdataset"]


# The fields of a manifest row, by our names. `manifest.columns` maps them to the manifest's own.
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


def suggest_nearest(name: str, known: Iterable[str]) -> str:
    """ "; did you mean `x`?" for a name close to a known one, else nothing."""
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f"; did you mean `{near[0]}`?" if near else ""


def _refuse_bool(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("must be a number, not true or false")
    return value


Auto = Literal["auto"]
Number = Annotated[float, BeforeValidator(_refuse_bool), Field(allow_inf_nan=False)]
Whole = Annotated[int, BeforeValidator(_refuse_bool)]
PositiveInt = Annotated[Whole, Field(ge=1)]
Seed = Annotated[Whole, Field(ge=0, le=MAX_SEED)]


class Section(BaseModel):
    """A section of the job: frozen, and closed to unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", coerce_numbers_to_str=True)


def _make_absolute(uri: str) -> str:
    """A local path made absolute against the working directory (workers have another one); a URI as it stands."""
    if "://" in uri:
        return uri
    return os.path.abspath(os.path.expanduser(uri))


def _check_uri(value: str) -> str:
    if not value.strip():
        raise ValueError("is empty")
    reason = reveals_secret(value)
    if reason:
        raise ValueError(reason)
    return _make_absolute(value)


UriOrPath = Annotated[str, Field(min_length=1)]


class ManifestSettings(Section):
    """Which rows: a file, a folder or a glob of Parquet, JSONL(.gz) or CSV(.gz), local or in a store."""

    uri: UriOrPath
    columns: dict[str, str] = Field(default_factory=dict)  # our name -> the manifest's name
    limit: PositiveInt | None = None  # only the first rows
    melody_roots: tuple[UriOrPath, ...] = ()  # local folders that melodies may come from, besides the manifest's own

    _uri = field_validator("uri")(_check_uri)

    @field_validator("melody_roots")
    @classmethod
    def _roots(cls, roots: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(_check_uri(root) for root in roots)

    @field_validator("columns")
    @classmethod
    def _columns(cls, columns: dict[str, str]) -> dict[str, str]:
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
    """Which checkpoint (a preset, a hub name, a folder, an s3:// folder or `embedded`) and how it is run."""

    name: str = Field(default="embedded", min_length=1)
    revision: str | None = None
    device: str = Field(default="auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"

    @field_validator("name")
    @classmethod
    def _name(cls, name: str) -> str:
        reason = reveals_secret(name)
        if reason:
            raise ValueError(reason)
        looks_local = name.startswith(("./", "../", "/", "~")) or name in (".", "..")
        return _make_absolute(name) if looks_local else name


class GenerationSettings(Section):
    """Defaults for rows that say nothing. `seed` is a salt; a row's own seed replaces it."""

    duration_s: Annotated[Number, Field(gt=0)] = 10.0
    samples: Annotated[Whole, Field(ge=1, le=10_000)] = 1
    seed: Seed = 0
    temperature: Annotated[Number, Field(ge=0, le=100)] = 1.0  # 0 is argmax
    top_k: Annotated[Whole, Field(ge=0, le=1_000_000)] = 250  # 0: no limit
    top_p: Annotated[Number, Field(ge=0, le=1)] = 0.0  # 0: off; else it replaces top_k
    guidance_scale: Annotated[Number, Field(ge=0, le=100)] = 3.0  # 1: no guidance
    stride_s: Annotated[Number, Field(gt=0)] = 18.0  # of the sliding window, for clips longer than the model's
    keep_continuation: bool = True  # false: only the new part of a continued clip
    stems: bool = False  # true: melodies without their drums and bass, by Demucs (extra `stems`)
    allow_unconditional: bool = False  # rows with neither prompt nor melody
    max_duration_s: Annotated[Number, Field(gt=0, le=36_000)] = 600.0  # longer rows are refused as invalid

    @model_validator(mode="after")
    def _within_reach(self) -> "GenerationSettings":
        if self.duration_s > self.max_duration_s:
            raise ValueError(
                f"asks for duration_s {self.duration_s:g}, beyond its max_duration_s {self.max_duration_s:g}"
            )
        return self


class AudioSettings(Section):
    """How clips are encoded and where their bytes live."""

    format: AudioFormat = "flac"
    layout: AudioLayout = "files"
    loudness_lufs: Annotated[Number, Field(ge=-70, le=0)] | None = None  # null: as generated
    codes: bool = False  # keep the codec's codes in the index

    def canonical(self) -> dict[str, Any]:
        """What enters a clip's key: the encoding, defaults left out. The layout and the codes change no sound."""
        canon: dict[str, Any] = {}
        if self.format != "flac":
            canon["format"] = self.format
        if self.loudness_lufs is not None:
            lufs = float(self.loudness_lufs)
            canon["loudness_lufs"] = int(lufs) if lufs.is_integer() else lufs
        return canon


class ActorRange(Section):
    """Between `min` and `max` actors, as the cluster gives them."""

    min: PositiveInt = 1
    max: PositiveInt

    @model_validator(mode="after")
    def _ordered(self) -> "ActorRange":
        if self.min > self.max:
            raise ValueError(f"has min {self.min}, more than max {self.max}")
        return self


class ClusterSettings(Section):
    """Where and how widely it runs. Nothing here changes a clip, a key or a run's name."""

    address: str = Field(default="auto", min_length=1)  # auto: the cluster of RAY_ADDRESS, else a local one
    actors: PositiveInt | ActorRange = 1
    gpus_per_actor: Annotated[Number, Field(ge=0)] | Auto = "auto"
    cpus_per_actor: Annotated[Number, Field(ge=0)] | Auto = "auto"
    slots: Annotated[Whole, Field(ge=1, le=4096)] | Auto = "auto"
    shard_rows: PositiveInt | Auto = "auto"  # auto: a few minutes of work
    attempts: PositiveInt = (
        3  # of a shard that meets storage faults, before it is given up; a crash is tried once more, then bisected
    )
    heartbeat_s: Annotated[Number, Field(gt=0)] = 5.0
    silent_after_s: Annotated[Number, Field(gt=0)] = 300.0  # an actor without a heartbeat this long is replaced
    start_timeout_s: Annotated[Number, Field(gt=0)] = 1800.0  # for an actor to fetch and load the model

    @field_validator("address")
    @classmethod
    def _address(cls, address: str) -> str:
        reason = reveals_secret(address)
        if reason:
            raise ValueError(reason)
        return address

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

    _uri = field_validator("uri")(_check_uri)


# Flags of the command line and the key each one sets.
FLAGS: Mapping[str, str] = {
    "manifest": "manifest.uri",
    "output": "output.uri",
    "model": "model.name",
    "limit": "manifest.limit",
    "actors": "cluster.actors",
}


class Job(Section):
    """One job, as the job file says it."""

    manifest: ManifestSettings
    model: ModelSettings = Field(default_factory=ModelSettings)
    generation: GenerationSettings = Field(default_factory=GenerationSettings)
    audio: AudioSettings = Field(default_factory=AudioSettings)
    cluster: ClusterSettings = Field(default_factory=ClusterSettings)
    output: OutputSettings

    @classmethod
    def load(cls, path: str | Path | None = None, overrides: Sequence[str] = (), **flags: Any) -> "Job":
        """The job of a YAML file (or of flags alone), with `section.key=value` overrides and flags on top.

        `flags` are those of `FLAGS`; None means not given. The order of precedence is flag, override, file. Relative
        paths are relative to the working directory. Raises `JobError`, one line, never with a secret in it.
        """
        unknown = set(flags) - set(FLAGS)
        if unknown:
            raise TypeError(f"no such flag of a job: {', '.join(sorted(unknown))}")
        document = JobDocument.read(path) if path is not None else JobDocument()
        for override in overrides:
            document.override(override)
        for flag, value in flags.items():
            if value is not None:
                document.set(FLAGS[flag], value, origin=f"--{flag}")
        document.check_keys(known_keys(cls))
        values = document.expand_variables()
        for section, flag in (("manifest", "--manifest"), ("output", "--output")):
            if not (isinstance(values.get(section), Mapping) and "uri" in values[section]):
                where = document.origin((section,))
                raise JobError(f"{where}the job names no {section}: give {flag} URI or `{section}.uri` in the job file")
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise JobError(describe_errors(error, document)) from None


def known_keys(model: type[BaseModel]) -> dict[str, Any]:
    """The tree of keys a job file may hold: section -> key -> None, or a tree, or `dict` for free-form mappings."""
    tree: dict[str, Any] = {}
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            tree[name] = known_keys(kind)
        elif name == "columns":
            tree[name] = dict
        elif name == "actors":
            tree[name] = known_keys(ActorRange)
        else:
            tree[name] = None
    return tree


_MESSAGES = {
    "greater_than": "must be more than {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than": "must be less than {lt}",
    "less_than_equal": "must be at most {le}",
    "finite_number": "must be a finite number",
    "int_parsing": "must be a whole number",
    "int_type": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_parsing": "must be a number",
    "float_type": "must be a number",
    "string_type": "must be text",
    "string_too_short": "is empty",
    "bool_parsing": "must be true or false",
    "bool_type": "must be true or false",
    "literal_error": "must be {expected}",
    "missing": "is missing",
    "extra_forbidden": "is not a known key",
    "model_type": "must be a section of `key: value` lines",
    "dict_type": "must be a mapping such as {{prompt: caption}}",
    "tuple_type": "must be a list",
}


def describe_errors(error: ValidationError, document: JobDocument) -> str:
    """One line for all that pydantic found, each fault once, with file and line."""
    faults: dict[tuple[str, ...], list[tuple[str, str]]] = {}
    for item in error.errors(include_url=False, include_input=False):
        steps = [str(step) for step in item["loc"]]
        key = tuple(document.known_path(steps))
        text = _MESSAGES[item["type"]].format(**item.get("ctx", {})) if item["type"] in _MESSAGES else item["msg"]
        faults.setdefault(key, []).append((item["type"], text.removeprefix("Value error, ")))
    lines = []
    for key, found in faults.items():
        texts = list(dict.fromkeys(text for _, text in found))
        shown = document.show_value(key)
        got = f" (it is {redact_credentials(shown)})" if shown is not None else ""
        lines.append(f"{document.origin(key)}`{'.'.join(key)}` {' or '.join(texts)}{got}")
    return "; ".join(lines)
