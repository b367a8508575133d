"""The flow as Prefect sees it: three tasks, artifacts, and a run with failed rows that is completed all the same."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import S3
from tests.flows.conftest import Cli

pytestmark = pytest.mark.timeout(290, func_only=True)

CALL = "import json, sys; from flows.synthesize import synthesize; print(synthesize(json.loads(sys.argv[1])).run)"


def ask(url: str, what: str, filters: dict) -> list[dict]:
    import httpx

    reply = httpx.post(f"{url}/{what}/filter", json=filters, timeout=30)
    reply.raise_for_status()
    return reply.json()


def test_a_run_with_failed_rows_is_completed_with_a_warning(
    served_cli: Cli, prefect_url: str, s3: S3, text_checkpoint: Path, write_rows: Callable[..., Path]
):
    manifest = write_rows([{"prompt": "one"}, {"prompt": "two"}, {"prompt": "three", "duration_s": -1}])
    job = {
        "manifest": {"uri": str(manifest)},
        "model": {"name": str(text_checkpoint)},
        "generation": {"duration_s": 1},
        "cluster": {"cpus_per_actor": 1, "slots": 4},
        "output": {"uri": s3.uri},
    }
    # As a deployment does: parameters are JSON, and nobody watches.
    call = subprocess.Popen(
        [sys.executable, "-c", CALL, json.dumps(job)],
        cwd=served_cli.folder,
        env={**os.environ, **served_cli.env},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    served_cli.started.append(call)
    out, err = call.communicate(timeout=200)
    assert call.returncode == 0, err
    run = out.strip().splitlines()[-1]

    artifacts = {a["key"]: a for a in ask(prefect_url, "artifacts", {}) if (a["key"] or "").endswith(run)}
    assert set(artifacts) == {f"progress-{run}", f"counts-{run}", f"failures-{run}", f"summary-{run}"}
    assert float(artifacts[f"progress-{run}"]["data"]) == 100.0
    counts = {row[""]: row["rows"] for row in json.loads(artifacts[f"counts-{run}"]["data"])}
    assert counts == {"planned": 2, "made": 2, "failed": 0, "refused while planning": 1, "missing": 0}
    assert "WARNING" in artifacts[f"failures-{run}"]["description"]
    assert "duration_s" in artifacts[f"failures-{run}"]["data"]
    assert "2 of 2 clips made" in artifacts[f"summary-{run}"]["data"]

    flow_run = artifacts[f"summary-{run}"]["flow_run_id"]
    (state,) = [found["state"] for found in ask(prefect_url, "flow_runs", {"flow_runs": {"id": {"any_": [flow_run]}}})]
    assert state["type"] == "COMPLETED"
    tasks = ask(prefect_url, "task_runs", {"flow_runs": {"id": {"any_": [flow_run]}}})
    assert sorted(task["name"].partition("-")[0] for task in tasks) == ["generate", "plan", "publish"]
