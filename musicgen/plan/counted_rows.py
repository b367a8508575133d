"""What planning knows of a manifest's rows and columns before it decides on a run."""

from musicgen.generator_spec import GeneratorSpec
from musicgen.job import Job
from musicgen.job_sections import ROW_FIELDS
from musicgen.manifest.near_misses import describe_near_misses, find_near_misses
from musicgen.plan.missing import RowCounts
from musicgen.plan.outcome import PlanOutcome
from musicgen.plan.spilled_manifest import SpilledManifest

INVALID_SHOWN = 1000


def count_rows(job: Job, spec: GeneratorSpec, manifest: SpilledManifest, counts: RowCounts) -> PlanOutcome:
    """Return the outcome where nothing is to be done."""
    columns, fields = job.manifest.columns, spec.row_fields
    used = {name: columns.get(name, name) for name in ROW_FIELDS if name in manifest.spill.fields_used}
    misses = find_near_misses(manifest.carried.names, used, [name for name in ROW_FIELDS if name in fields])
    carried = manifest.carried
    return PlanOutcome(
        made=counts.made,
        removed=counts.removed,
        unasked=counts.unasked,
        failed_before=counts.failed,
        held_back=sum(counts.held_back.values()),
        held_back_classes=counts.held_back,
        invalid_count=manifest.spill.invalid,
        invalid=manifest.spill.first_invalid(INVALID_SHOWN),
        carried=tuple(name for name in manifest.carried.schema.names if name not in manifest.carried.lacking),
        used=used,
        near_misses=tuple(describe_near_misses(misses)),
        added=carried.added,
        lacking=carried.lacking,
        not_carried=carried.left_out,
        left_out=manifest.spill.left_out,
        csv=manifest.csv.describe() if manifest.csv else "",
    )
