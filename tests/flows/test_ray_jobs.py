"""A job that `ray job submit` starts, one by Ray's client, and one on a cluster without workers: on real heads."""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.conftest import free_port
from tests.flows.conftest import BIN, TOKEN, Cli, sounds, start_ray_head, told

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900, func_only=True)]
ROWS = [{"prompt": f"calm piano {row}", "duration_s": 0.2} for row in range(6)]
SMALL = ("--set", "cluster.slots=2", "--set", "cluster.shard_rows=1", "--set", "cluster.cpus_per_actor=1")


def test_ray_job_submit_runs_a_job(cli: Cli, prefect_url: str, write_rows: Callable[..., Path], tmp_path: Path) -> None:
    rows, out, port = write_rows(ROWS), tmp_path / "out", free_port()
    options = ("--num-cpus=2", "--include-dashboard=true", f"--dashboard-port={port}", "--dashboard-host=127.0.0.1")
    with start_ray_head(tmp_path, *options) as (_, env):
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


def test_a_driver_elsewhere_runs_a_job_by_rays_client(
    cli: Cli, prefect_url: str, write_rows: Callable[..., Path], tmp_path: Path
) -> None:
    rows, out, port = write_rows(ROWS), tmp_path / "out", free_port()
    options = ("--num-cpus=2", "--include-dashboard=false", f"--ray-client-server-port={port}")
    with start_ray_head(tmp_path, *options):
        address = f"ray://127.0.0.1:{port}"
        own = Cli(cli.folder, {**cli.env, **TOKEN, "RAY_ADDRESS": address, "PREFECT_API_URL": prefect_url}, cli.started)
        done = own("run", "--manifest", str(rows), "--output", str(out), *SMALL, "--json", timeout=400)
    assert f"on the Ray cluster at {address}" in done.stderr
    assert (told(done)["made"], told(done)["missing"]) == (len(ROWS), 0)
    assert len(sounds(str(out))) == len(ROWS)


# Ray's own rehearsal, `ray.cluster_utils.AutoscalingCluster`, ends every Ray of the machine, and its configuration is
# not in Ray's wheel; nor is what the autoscaler's version 2 needs for this provider. So this is version 1.
AUTOSCALER = {"AUTOSCALER_UPDATE_INTERVAL_S": "1", "RAY_FAKE_CLUSTER": "1"}


def write_autoscaling(path: Path, address: str) -> Path:
    """The configuration of Ray's pretended cloud, whose nodes are processes here: up to two workers of one CPU."""
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
            "use_node_id_as_ip": True,  # without it no node is known to be idle, because all have one address
        },
        "auth": {"ssh_user": "nobody"},
        "head_node_type": "ray.head.default",
        "available_node_types": {
            "ray.head.default": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
            "worker": {"resources": {"CPU": 1}, "node_config": {}, "min_workers": 0, "max_workers": 2},
        },
    }
    lists = ("initialization_commands", "setup_commands", "head_setup_commands", "worker_setup_commands")
    lists += ("head_start_ray_commands", "worker_start_ray_commands", "cluster_synced_files")
    mappings = ("file_mounts", "docker", "head_node", "worker_nodes")
    config |= {key: [] for key in lists} | {key: {} for key in mappings} | {"file_mounts_sync_continuously": False}
    path.write_text(json.dumps(config))
    return path


WATCH_NODES = """
import sys, time
import ray

ray.init(address=sys.argv[1], log_to_driver=False)
while True:
    workers = [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU")]
    print(time.monotonic(), len(workers), flush=True)
    time.sleep(0.5)
"""


@contextmanager
def count_nodes(folder: Path, address: str, env: dict[str, str]) -> Iterator[Callable[[], list[tuple[float, int]]]]:
    """Watch a cluster from a process of its own: when there were how many nodes with processors."""
    counts = folder / "nodes.txt"
    command = [sys.executable, "-c", WATCH_NODES, address]
    with counts.open("wb") as file, (folder / "watch.log").open("wb") as log:
        watcher = subprocess.Popen(command, cwd=folder, env=env, stdout=file, stderr=log)
    try:
        yield lambda: [
            (float(at), int(number))
            for at, _, number in (line.partition(" ") for line in counts.read_text().splitlines())
            if number
        ]
    finally:
        watcher.kill()
        watcher.wait()


def test_workers_start_for_a_job_and_stop_when_their_actors_are_given_back(
    cli: Cli, prefect_url: str, write_rows: Callable[..., Path], tmp_path: Path
) -> None:
    rows, out = write_rows([{"prompt": "a long piano", "duration_s": 120}, *ROWS]), tmp_path / "out"
    port = free_port()
    config = write_autoscaling(tmp_path / "autoscaling.json", f"127.0.0.1:{port}")
    options = ("--num-cpus=0", f"--autoscaling-config={config}", "--include-dashboard=false")
    with (
        start_ray_head(tmp_path, f"--port={port}", *options, **AUTOSCALER) as (address, env),
        count_nodes(tmp_path, address, env) as read_counts,
    ):
        own = Cli(cli.folder, {**cli.env, **TOKEN, "RAY_ADDRESS": address, "PREFECT_API_URL": prefect_url}, cli.started)
        actors = ("--set", "cluster.actors={min: 1, max: 2}", "--set", "cluster.gpus_per_actor=0")
        arguments = ("--manifest", str(rows), "--output", str(out), *SMALL, *actors)
        summary = told(own("run", *arguments, "--set", "cluster.slots=1", "--json", timeout=500))
        ended_at = time.monotonic()
        assert (summary["made"], summary["missing"]) == (len(ROWS) + 1, 0)
        assert len(sounds(str(out))) == len(ROWS) + 1
        while read_counts()[-1][1]:
            assert time.monotonic() < ended_at + 120, read_counts()[-1]
            time.sleep(0.5)
        meanwhile = [number for at, number in read_counts() if at < ended_at]
    assert max(meanwhile) == 2
    assert 1 in meanwhile[meanwhile.index(2) :], "the second actor's node went while the first made the long clip"
