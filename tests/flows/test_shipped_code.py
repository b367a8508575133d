"""A Ray worker that has only what the driver sent finds the configs, and counts as the same code."""

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.flows.conftest import ROOT, TOKEN

_ASK_A_WORKER = """
import json, sys
import ray
from actors.cluster import join_cluster
from actors.environment import collect_versions
from musicgen.cluster_settings import ClusterSettings

@ray.remote
def look():
    from actors.environment import collect_versions
    from musicgen.presets import all_presets, config_file
    import musicgen
    return {
        "package": musicgen.__path__[0],
        "configs": str(config_file("jobs", "demo.yaml")),
        "presets": [preset.name for preset in all_presets()],
        "code": collect_versions()["code"],
    }

with join_cluster(ClusterSettings(address=sys.argv[1])):
    print(json.dumps({"worker": ray.get(look.remote()), "code": collect_versions()["code"]}))
"""


def test_a_worker_finds_the_configs_that_the_driver_sent(ray_address: str, tmp_path: Path) -> None:
    # As in a driver that `ray job submit` has started, whose settings Ray refuses to be set again.
    submitted = {"runtime_env": {"env_vars": {"AWS_DEFAULT_REGION": "of-the-job"}}}
    done = subprocess.run(
        [sys.executable, "-c", _ASK_A_WORKER, ray_address],
        cwd=tmp_path,
        env={
            **os.environ,
            **TOKEN,
            "PYTHONPATH": str(ROOT),
            "AWS_DEFAULT_REGION": "of-the-job",
            "RAY_JOB_CONFIG_JSON_ENV_VAR": json.dumps(submitted),
        },
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout.splitlines()[-1])
    worker = answer["worker"]
    assert not worker["package"].startswith(str(ROOT))
    assert worker["configs"] == f"{worker['package']}/configs/jobs/demo.yaml"
    assert worker["code"] == answer["code"]
    assert "embedded" in worker["presets"]
    assert len(worker["presets"]) == len(list((ROOT / "configs" / "models").glob("*.yaml")))
