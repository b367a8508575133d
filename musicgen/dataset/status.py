"""How far each run is: from its plan and the footers of its index parts, without reading a row."""

import json
from dataclasses import asdict, dataclass
from typing import Any

from musicgen.dataset import paths
from musicgen.dataset.reader import Dataset


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
        """Whether nothing is missing."""
        return self.missing == 0

    def to_json(self) -> dict[str, Any]:
        """As values for `--json`."""
        return asdict(self)


def run_statuses(dataset: Dataset) -> list[RunStatus]:
    """The status of every run, in the order of names."""
    return [_run_status(dataset, run) for run in dataset.runs()]


def _run_status(dataset: Dataset, run: str) -> RunStatus:
    footers = [footer for _, footer in Dataset(dataset.store, dataset.pins, run).footers()]
    made, failed = sum(f.made for f in footers), sum(f.failed for f in footers)
    plan = _plan(dataset, run)
    planned = int(plan.get("rows", sum(f.rows for f in footers)))
    return RunStatus(
        run=run,
        planned=planned,
        made=made,
        failed=failed,
        missing=max(0, planned - made - failed),
        invalid=int(plan.get("invalid", 0)),
        shards=sum(len(part["shard_rows"]) for part in plan.get("parts", [])) or len(footers),
        committed=len(footers),
        audio_s=round(sum(f.audio_s for f in footers), 6),
        model=(plan.get("model") or {}).get("name"),
        model_revision=(plan.get("model") or {}).get("revision"),
        superseded=dataset.store.exists(paths.superseded(run)),
    )


def _plan(dataset: Dataset, run: str) -> dict[str, Any]:
    """The run's plan as JSON; empty if it is gone."""
    try:
        return json.loads(dataset.store.read(paths.plan(run)))
    except FileNotFoundError:
        return {}
