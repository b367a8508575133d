"""Deployed jobs, run by a real worker in a folder of its own, with nothing but the installed package."""

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import cast
from uuid import UUID

import psutil
import pytest
import yaml
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterId
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.deployments import run_deployment
from prefect.deployments.runner import EntrypointType, RunnerDeployment
from prefect.events import DeploymentEventTrigger, ResourceSpecification
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import Cancelling, Pending

from flows.deployment import GRACE_PERIOD_S
from flows.notifications import PUBLISHED_EVENT, WEBHOOK_VARIABLE
from flows.postponed import AWAITING_DATASET
from flows.stages import expect_actors, open_job, plan_run
from musicgen.dataset import paths
from musicgen.dataset.driver_token import DriverToken
from musicgen.job import Job
from musicgen.run_plan import format_time
from tests.flows.conftest import BIN, ROOT, TOKEN, Cli, sounds, stop_process

LONG_AGO = "2020-01-01T00:00:00.000+00:00"
ROWS = [{"prompt": f"calm piano {row}", "duration_s": 0.2} for row in range(3)]


@pytest.fixture
def client(prefect_url: str) -> Iterator[SyncPrefectClient]:
    """A client of the session's server, to which deployments go."""
    with temporary_settings({PREFECT_API_URL: prefect_url}), get_client(sync_client=True) as client:
        yield client


@pytest.fixture
def deployer(cli: Cli, prefect_url: str) -> Cli:
    """The command line in a folder that has a package `flows` of its own."""
    folder = cli.folder / "deployer"
    (folder / "flows").mkdir(parents=True)
    (folder / "flows" / "__init__.py").write_text("raise RuntimeError('not the package')")
    env = {**cli.env, "PREFECT_API_URL": prefect_url}
    return Cli(folder, env, cli.started)


@contextmanager
def serve_worker(
    folder: Path, pool: str, prefect_url: str, ray_address: str, **variables: str
) -> Iterator[subprocess.Popen[bytes]]:
    """A worker of the pool, in a folder that holds nothing."""
    folder.mkdir(exist_ok=True)
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    env |= {
        **TOKEN,
        "PREFECT_API_URL": prefect_url,
        "PREFECT_HOME": str(folder.with_name(f"{folder.name}-home")),
        "PREFECT_WORKER_QUERY_SECONDS": "1",
        "PREFECT_WORKER_PREFETCH_SECONDS": "1",
        "RAY_ADDRESS": ray_address,
        **variables,
    }
    log = folder.with_suffix(".log")
    command = [sys.executable, "-P", str(BIN / "prefect"), "worker", "start", "--pool", pool, "--type", "process"]
    worker = subprocess.Popen(command, cwd=folder, env=env, stdout=log.open("ab"), stderr=subprocess.STDOUT)
    try:
        yield worker
    finally:
        stop_process(worker)


@pytest.fixture
def write_job(deployer: Cli, write_rows: Callable[..., Path]) -> Callable[..., str]:
    """Writes a job file of rows into the deployer's folder."""

    def write(name: str, rows: list[dict[str, object]], **sections: dict[str, object]) -> str:
        manifest = write_rows(rows, f"{name}.csv")
        settings = {"manifest": {"uri": str(manifest)}, "audio": {"format": "wav"}, **sections}
        settings["output"] = {"uri": str(deployer.folder.parent / "dataset")}
        (deployer.folder / f"{name}.yaml").write_text(yaml.safe_dump(settings))
        return f"{name}.yaml"

    return write


def wait_for_pool(client: SyncPrefectClient, pool: str) -> None:
    """Wait until a worker has made its pool."""
    deadline = time.monotonic() + 120
    while pool not in [known.name for known in client.read_work_pools()]:
        assert time.monotonic() < deadline
        time.sleep(0.2)


def wait_for_state(client: SyncPrefectClient, run: UUID, name: str, log: Path, timeout_s: float = 150) -> FlowRun:
    """Wait until the flow run is in the state. Another final state fails the test."""
    deadline = time.monotonic() + timeout_s
    while True:
        flow_run = client.read_flow_run(run)
        assert flow_run.state is not None
        if flow_run.state.name == name:
            return flow_run
        assert not flow_run.state.is_final(), (flow_run.state, log.read_text()[-4000:])
        assert time.monotonic() < deadline, (flow_run.state, log.read_text()[-4000:])
        time.sleep(0.2)


def start_run(deployment: str, **parameters: object) -> UUID:
    """Ask for a run of a deployment now."""
    return cast(FlowRun, run_deployment(deployment, timeout=0, parameters=parameters)).id


def plan_unfinished_run(job_file: Path) -> str:
    """Plan a run long ago that nobody makes."""
    job = Job.load(job_file)
    context = open_job(job)
    plan = plan_run(context, expect_actors(job, None)).plan
    assert plan is not None
    for path in (paths.plan_file(plan.run), paths.order_entry(plan.order)):
        content = context.store.read(path).decode().replace(plan.created_at, LONG_AGO)
        context.store.write(path, content.encode())
    return plan.run


def test_a_night_waits_for_another_jobs_living_run_and_supersedes_it_when_its_driver_has_ended(
    deployer: Cli, client: SyncPrefectClient, prefect_url: str, ray_address: str, write_job: Callable[..., str]
) -> None:
    other = plan_unfinished_run(deployer.folder / write_job("other", [{"prompt": "drums", "duration_s": 0.2}]))
    job = write_job("nightly", ROWS)
    store = open_job(Job.load(deployer.folder / job)).store
    token = paths.driver_token(other, "d1")
    now = format_time(datetime.now(UTC))
    store.write(token, DriverToken(host="elsewhere", started_at=now, written_at=now).to_json())
    pool, name = f"pool-{os.getpid()}-waits", f"waits-{os.getpid()}"
    refused = deployer("deploy", job, "--pool", pool, expect=2)
    assert f"prefect work-pool create {pool} --type process" in refused.stderr
    log = deployer.folder.parent / "worker.log"
    with serve_worker(log.with_suffix(""), pool, prefect_url, ray_address):
        wait_for_pool(client, pool)
        done = deployer(
            *("deploy", job, "--pool", pool, "--name", name, "--retry-delay", "2", "--cron", "0 2 * * *", "--json")
        )
        assert json.loads(done.stdout)["deployment"] == f"synthesize/{name}"
        run = start_run(f"synthesize/{name}", settings=["manifest.limit=2"])
        waiting = wait_for_state(client, run, AWAITING_DATASET, log)
        assert waiting.state is not None
        assert waiting.state.type is StateType.SCHEDULED
        assert f"run {other}, of another job or manifest, is at work on elsewhere" in (waiting.state.message or "")
        assert not store.exists(paths.superseded_note(other))
        store.delete(token)
        wait_for_state(client, run, "Completed", log)
    assert store.exists(paths.superseded_note(other))
    assert len(sounds(store.uri)) == 2


@pytest.mark.slow
def test_a_failed_night_is_told_to_a_webhook_and_a_made_one_triggers_another_deployment(
    deployer: Cli, client: SyncPrefectClient, prefect_url: str, ray_address: str, write_job: Callable[..., str]
) -> None:
    job = write_job("nightly", ROWS)
    pool, name, log = f"pool-{os.getpid()}-told", f"told-{os.getpid()}", deployer.folder.parent / "worker.log"
    with (
        receive_messages() as (address, messages),
        serve_worker(log.with_suffix(""), pool, prefect_url, ray_address, **{WEBHOOK_VARIABLE: address}),
    ):
        wait_for_pool(client, pool)
        deployer("deploy", job, "--pool", pool, "--name", name)
        run = start_run(f"synthesize/{name}", settings=["manifest.uri=/nowhere/rows.csv"])
        failed = wait_for_state(client, run, "Failed", log)
        (message,) = messages
        assert f"flow run {failed.name} ended as Failed" in message["text"]
        assert "/nowhere/rows.csv" in message["text"]
        assert f"prefect deployment run --id {failed.deployment_id}" in message["text"]
        after = create_triggered_deployment(f"after-{name}", pool, str(deployer.folder.parent / "dataset"))
        wait_for_state(client, start_run(f"synthesize/{name}"), "Completed", log)
        deadline = time.monotonic() + 120
        while not client.read_flow_runs(deployment_filter=DeploymentFilter(id=DeploymentFilterId(any_=[after]))):
            assert time.monotonic() < deadline
            time.sleep(0.5)


@contextmanager
def receive_messages() -> Iterator[tuple[str, list[dict[str, str]]]]:
    """An HTTP server on loopback: its address, and the JSON bodies that were posted to it."""
    messages: list[dict[str, str]] = []

    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            messages.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Receiver) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/hook", messages
        server.shutdown()


def create_triggered_deployment(name: str, pool: str, dataset: str) -> UUID:
    """Deploy a flow that runs once the dataset is published."""
    from flows.synthesize import synthesize

    trigger = DeploymentEventTrigger(
        expect={PUBLISHED_EVENT}, match=ResourceSpecification.model_validate({"prefect.resource.id": f"*{dataset}"})
    )
    runner = RunnerDeployment.from_flow(
        synthesize,
        name=name,
        work_pool_name=pool,
        triggers=[trigger],
        entrypoint_type=EntrypointType.MODULE_PATH,
        parameters={"job": {"manifest": {"uri": "/nowhere/rows.csv"}, "output": {"uri": dataset}}},
    )
    return cast(UUID, runner.apply())


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_night_that_is_canceled_or_loses_its_worker_does_not_stop_the_next(
    deployer: Cli, client: SyncPrefectClient, prefect_url: str, ray_address: str, write_job: Callable[..., str]
) -> None:
    rows: list[dict[str, object]] = [{"prompt": f"calm piano {row}", "duration_s": 20} for row in range(40)]
    job = write_job("nightly", rows, cluster={"shard_rows": 2})
    pool, name, log = f"pool-{os.getpid()}-lost", f"lost-{os.getpid()}", deployer.folder.parent / "worker.log"
    deployment = f"synthesize/{name}"
    with serve_worker(log.with_suffix(""), pool, prefect_url, ray_address) as worker:
        wait_for_pool(client, pool)
        deployer("deploy", job, "--pool", pool, "--name", name)
        canceled = start_run(deployment)
        wait_for_state(client, canceled, "Running", log)
        waiting = start_run(deployment)
        wait_for_state(client, waiting, "AwaitingConcurrencySlot", log)
        client.set_flow_run_state(canceled, Cancelling())
        wait_for_state(client, canceled, "Cancelled", log)
        wait_for_state(client, waiting, "Running", log)  # it had waited for the place of the first one
        kill_tree(worker.pid)
        killed_at = time.monotonic()
    next_run = start_run(deployment, settings=["manifest.limit=2", "generation.duration_s=0.2"])
    with serve_worker(log.with_suffix(""), pool, prefect_url, ray_address):
        completed = wait_for_state(client, next_run, "Completed", log, timeout_s=600)
    assert completed.run_count == 1, "it did not have to await the dataset, once its place was free"
    print(f"the place of a killed worker's run was free after {time.monotonic() - killed_at:.0f} s")


def kill_tree(pid: int) -> None:
    """Kill a process and all that it has started."""
    for process in [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]:
        with suppress(psutil.NoSuchProcess):
            process.kill()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_shipped_deployment_is_run_by_a_worker_elsewhere_after_one_that_took_a_run_and_died(
    deployer: Cli, client: SyncPrefectClient, prefect_url: str, ray_address: str, write_job: Callable[..., str]
) -> None:
    pool, log = f"pool-{os.getpid()}-shipped", deployer.folder.parent / "worker.log"
    shipped = yaml.safe_load((ROOT / "infra" / "prefect.yaml").read_text())
    (deployment,) = shipped["deployments"]
    deployment["work_pool"]["name"] = pool
    deployment["name"] = f"shipped-{os.getpid()}"
    deployment["parameters"]["job"] = yaml.safe_load((deployer.folder / write_job("nightly", ROWS)).read_text())
    assert deployment["concurrency_limit"]["grace_period_seconds"] == GRACE_PERIOD_S
    deployment["concurrency_limit"]["grace_period_seconds"] = 60  # the least that Prefect takes
    (deployer.folder / "prefect.yaml").write_text(yaml.safe_dump(shipped))
    shutil.rmtree(deployer.folder / "flows")  # `prefect deploy` itself imports from the folder in which it is called
    with serve_worker(log.with_suffix(""), pool, prefect_url, ray_address):
        wait_for_pool(client, pool)
    command = [str(BIN / "prefect"), "--no-prompt", "deploy", "--all"]
    subprocess.run(command, cwd=deployer.folder, env={**os.environ, **deployer.env}, check=True, timeout=120)
    shutil.rmtree(deployer.folder)
    taken = start_run(f"synthesize/{deployment['name']}")
    client.set_flow_run_state(taken, Pending())  # as a worker does first, of which nothing more is heard
    taken_at = time.monotonic()
    late = start_run(f"synthesize/{deployment['name']}")
    with serve_worker(log.with_suffix(""), pool, prefect_url, ray_address):
        wait_for_state(client, late, "AwaitingConcurrencySlot", log)
        wait_for_state(client, late, "Completed", log, timeout_s=300)
    print(f"the run after one that stays pending was complete after {time.monotonic() - taken_at:.0f} s")
    assert len(sounds(str(log.with_name("dataset")))) == len(ROWS)
