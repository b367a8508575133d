"""Jobs in a folder or a bucket, and the plans of them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from musicgen.job import Job
from musicgen.plan import PlanOutcome, make_plan
from musicgen.storage import open_store
from tests.fixtures.planning import PlannedCheckpoint

Submit = Callable[..., PlanOutcome]


@pytest.fixture
def submit(tmp_path: Path) -> Submit:
    """Plan a job: `submit(manifest text or path, *overrides)`; its output is `tmp_path / "out"` unless overridden."""

    def plan_job(
        manifest: str | Path, *overrides: str, output: str = "", checkpoint: Any = None, **options: Any
    ) -> PlanOutcome:
        path = manifest
        if isinstance(manifest, str) and "\n" in manifest:
            path = tmp_path / ("m.jsonl" if manifest.startswith("{") else "m.csv")
            path.write_text(manifest)
        job = Job.load(None, list(overrides), manifest=str(path), output=output or str(tmp_path / "out"))
        store = open_store(job.output.uri)
        return make_plan(job, checkpoint or PlannedCheckpoint(), store, **options)

    return plan_job
