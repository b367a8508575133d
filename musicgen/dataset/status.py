"""Computes the progress of each run from its plan and the footers of its index parts, without reading rows."""

from dataclasses import asdict, dataclass

from musicgen.dataset import paths
from musicgen.dataset.reader import Dataset
from musicgen.run_plan import Plan


@dataclass(frozen=True, slots=True)
class RunStatus:
    """One run in rows. `missing` are planned and neither made nor failed; `invalid` were refused while planning."""

    run: str
    planned: int
    made: int
    failed: int
    missing: int
    invalid: int
    shards: int
    committed: int
    audio_s: float
    model: str | None
    model_revision: str | None
    superseded: bool = False  # closed unfinished: a later run has planned what is missing here

    @property
    def finished(self) -> bool:
        """Return whether no row is missing."""
        return self.missing == 0

    def to_json(self) -> dict[str, object]:
        """Return the status as values for `--json`."""
        return asdict(self)


def run_statuses(dataset: Dataset) -> list[RunStatus]:
    """Compute the status of every run, in the order of names."""
    return [_run_status(dataset, run) for run in dataset.runs()]


def _run_status(dataset: Dataset, run: str) -> RunStatus:
    footers = [footer for _, footer in Dataset(dataset.store, dataset.info, run).footers()]
    made, failed = sum(footer.made for footer in footers), sum(footer.failed for footer in footers)
    plan = _read_plan(dataset, run)
    planned = plan.rows if plan else sum(footer.rows for footer in footers)
    return RunStatus(
        run=run,
        planned=planned,
        made=made,
        failed=failed,
        missing=max(0, planned - made - failed),
        invalid=plan.invalid if plan else 0,
        shards=len(plan.shards) if plan else len(footers),
        committed=len(footers),
        audio_s=round(sum(footer.audio_s for footer in footers), 6),
        model=plan.model.name if plan else None,
        model_revision=plan.model.revision if plan else None,
        superseded=dataset.store.exists(paths.superseded_note(run)),
    )


def _read_plan(dataset: Dataset, run: str) -> Plan | None:
    """Read the run's plan; None if it is missing. Raises `StoreError` if it is damaged."""
    try:
        return Plan.from_json(dataset.store.read(paths.plan_file(run)))
    except FileNotFoundError:
        return None
