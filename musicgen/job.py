"""The settings of a run as one pydantic model, `Job`: the job file (README.md), flags and `--set` overrides."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic import Field, ValidationError

from musicgen.cluster_settings import ClusterSettings, MetricsSettings
from musicgen.errors import JobError
from musicgen.job_errors import describe_errors
from musicgen.job_file import JobDocument
from musicgen.job_keys import known_keys
from musicgen.job_sections import AudioSettings, GenerationSettings, ManifestSettings, ModelSettings, OutputSettings
from musicgen.job_types import Section
from musicgen.presets import resolve_config

# Flags of the command line and the key each one sets.
FLAGS: Mapping[str, str] = {
    "manifest": "manifest.uri",
    "output": "output.uri",
    "model": "model.name",
    "limit": "manifest.limit",
    "actors": "cluster.actors",
    "supersede": "output.supersede_unfinished",
}


class Job(Section):
    """A job: the sections of a job file."""

    manifest: ManifestSettings
    model: ModelSettings = Field(default_factory=ModelSettings)
    generation: GenerationSettings = Field(default_factory=GenerationSettings)
    audio: AudioSettings = Field(default_factory=AudioSettings)
    cluster: ClusterSettings = Field(default_factory=ClusterSettings)
    metrics: MetricsSettings = Field(default_factory=MetricsSettings)
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
        return cls._from_document(document)

    def with_settings(self, overrides: Sequence[str]) -> "Job":
        """Return the job with `section.key=value` overrides. Raises `JobError`, with one line."""
        document = JobDocument(self.model_dump(mode="json", exclude_defaults=True))
        for override in overrides:
            document.override(override)
        return self._from_document(document)

    @classmethod
    def _from_document(cls, document: JobDocument) -> "Job":
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
