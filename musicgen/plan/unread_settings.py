"""Settings that the model's family does not read are refused before the manifest is read."""

from musicgen.errors import JobError
from musicgen.generator_spec import GeneratorSpec
from musicgen.job import Job
from musicgen.job_sections import ROW_FIELDS, GenerationSettings


def refuse_unread_settings(job: Job, spec: GeneratorSpec) -> None:
    """Raise `JobError` for a setting that would change nothing with this model, and a user would think it did."""
    model = f"{job.model.name} (family {spec.family})"
    for field in ROW_FIELDS:
        if field in spec.row_fields:
            continue
        if field in job.manifest.columns:
            raise JobError(
                f"manifest.columns gives a column to {field!r}, which {model} does not read; leave it out, and the "
                "column is carried into the index"
            )
        info = GenerationSettings.model_fields.get(field)
        if info is not None and getattr(job.generation, field) != info.default:
            raise JobError(f"generation.{field} is not read by {model}; leave it out, or choose another model.name")
    if job.audio.codes and not spec.has_codes:
        raise JobError(f"audio.codes is true, but {model} has no codes; leave it out")
