"""A job that `ray job submit` starts, and one on a cluster that has no worker yet: on real heads, started here."""

import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.conftest import free_port
from tests.flows.conftest import BIN, TOKEN, Cli, shorten_folder, sounds, told

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900, func_only=True)]
ROWS = [{"prompt": f"calm piano {row}", "duration_s": 0.2} for row in range(6)]
SMALL = ("--set", "cluster.slots=2", "--set", "cluster.shard_rows=1", "--set", "cluster.cpus_per_actor=1")


@contextmanager
def start_head(folder: Path, port: int, *options: str, **variables: str) -> Iterator[tuple[str, dict[str, str]]]:
    """The head of a cluster in a folder of its own: its address, and the environment to join it."""
    env = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "RAY_ADDRESS")}
    env |= {**TOKEN, "RAY_USAGE_STATS_ENABLED": "0", **variables}
    temporary = shorten_folder(folder)
    command = [str(BIN / "ray"), "start", "--head", "--block", f"--port={port}", f"--temp-dir={temporary}"]
    command += ["--object-store-memory=100000000", "--node-ip-address=127.0.0.1", *options]
    log = folder / "ray.log"
    head = subprocess.Popen(
        ["timeout", "-k", "5", "800", *command], cwd=folder, env=env, stdout=log.open("wb"), stderr=subprocess.STDOUT
    )
    try:
        deadline = time.monotonic() + 180
        while not (temporary / "ray_current_cluster").exists():
            assert head.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.2)
        yield f"127.0.0.1:{port}", env
    finally:
        head.terminate()
        try:
            head.wait(30)
        except subprocess.TimeoutExpired:
            head.kill()
            head.wait()


def test_ray_job_submit_runs_a_job(cli: Cli, prefect_url: str, write_rows: Callable[..., Path], tmp_path: Path) -> None:
    rows, out, port = write_rows(ROWS), tmp_path / "out", free_port()
    options = ("--num-cpus=2", "--include-dashboard=true", f"--dashboard-port={port}", "--dashboard-host=127.0.0.1")
    with start_head(tmp_path, free_port(), *options) as (_, env):
        environment = json.dumps({"env_vars": {"PREFECT_API_URL": prefect_url}})
        job = [str(BIN / "musicgen"), "run", "--manifest", str(rows), "--output", str(out), *SMALL, "--json"]
        submit = [str(BIN / "ray"), "job", "submit", "--address", f"http://127.0.0.1:{port}"]
        done = subprocess.run(
            [*submit, "--runtime-env-json", environment, "--", *job],
            cwd=tmp_path,
            env=env,
            capture_output=True,
            text=True,
            timeout=400,
        )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    assert len(sounds(str(out))) == len(ROWS)


def write_autoscaling(path: Path, address: str) -> Path:
    """The configuration of Ray's pretended cloud, whose nodes are processes here: up to two workers with two CPUs."""
    config = {
        "cluster_name": "pretended",
        "max_workers": 2,
        "upscaling_speed": 10,
        "idle_timeout_minutes": 0.1,
        "provider": {
            "type": "fake_multinode",
            "gcs_address": address,
            "disable_node_updaters": True,
            "disable_launch_config_check": True,
        },
        "auth": {"ssh_user": "nobody"},
        "head_node_type": "ray.head.default",
        "available_node_types": {
            "ray.head.default": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
            "worker": {"resources": {"CPU": 2}, "node_config": {}, "min_workers": 0, "max_workers": 2},
        },
    }
    lists = ("initialization_commands", "setup_commands", "head_setup_commands", "worker_setup_commands")
    lists += ("head_start_ray_commands", "worker_start_ray_commands", "cluster_synced_files")
    mappings = ("file_mounts", "docker", "head_node", "worker_nodes")
    config |= {key: [] for key in lists} | {key: {} for key in mappings} | {"file_mounts_sync_continuously": False}
    path.write_text(json.dumps(config))
    return path


def test_workers_start_for_a_job(cli: Cli, prefect_url: str, write_rows: Callable[..., Path], tmp_path: Path) -> None:
    rows, out = write_rows(ROWS), tmp_path / "out"
    port = free_port()
    config = write_autoscaling(tmp_path / "autoscaling.json", f"127.0.0.1:{port}")
    variables = {"AUTOSCALER_UPDATE_INTERVAL_S": "1", "RAY_FAKE_CLUSTER": "1"}
    options = ("--num-cpus=0", f"--autoscaling-config={config}", "--include-dashboard=false")
    with start_head(tmp_path, port, *options, **variables) as (address, _):
        own = Cli(cli.folder, {**cli.env, **TOKEN, "RAY_ADDRESS": address, "PREFECT_API_URL": prefect_url}, cli.started)
        actors = ("--set", "cluster.actors={min: 1, max: 2}", "--set", "cluster.gpus_per_actor=0")
        arguments = ("--manifest", str(rows), "--output", str(out), *SMALL, *actors)
        summary = told(own("run", *arguments, "--json", timeout=500))
        assert (summary["made"], summary["missing"]) == (len(ROWS), 0)
        assert len(sounds(str(out))) == len(ROWS)
