"""A Prefect server that dies or hangs in the middle of a run: the run does not notice, and says so once."""

import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import httpx
import pytest

from tests.flows.conftest import Cli, serve_prefect, sounds
from tests.flows.test_run import SMALL, ask, has_more_parts, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(590, func_only=True)]


@pytest.fixture
def own_prefect(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """A Prefect server of the test's own, and its address."""
    with serve_prefect(tmp_path / "own-prefect") as served:
        yield served


@pytest.mark.slow
@pytest.mark.parametrize("blow", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "stopped"])
def test_the_run_goes_on_and_says_it_once(
    blow: signal.Signals,
    cli: Cli,
    own_prefect: tuple[subprocess.Popen[bytes], str],
    text_checkpoint: Path,
    write_rows: Callable[..., Path],
) -> None:
    server, url = own_prefect
    rows = write_rows([{"prompt": f"tune {i}"} for i in range(80)])
    output = str(cli.folder / "set")
    command = ["run", "--manifest", str(rows), "--output", output, "--model", str(text_checkpoint), *SMALL]
    run = cli.start(*command, "--set", "cluster.shard_rows=4", PREFECT_API_URL=url, RAY_ADDRESS=None)
    wait_until(partial(has_more_parts, output, 0))
    server.send_signal(blow)
    out, err = run.communicate(timeout=300)
    assert run.returncode == 0, err
    assert "80 of 80 clips made" in out
    assert len(sounds(output)) == 80
    assert err.count("Prefect") == 1, err
    assert f"Prefect at {url} does not answer since" in err
    assert "the run goes on without it" in err
    assert not any(noise in err for noise in ("Traceback", "ERROR", "EventsWorker", "ConnectError"))


@pytest.mark.slow
def test_a_cancelled_run_stops_as_by_ctrl_c(
    cli: Cli,
    own_prefect: tuple[subprocess.Popen[bytes], str],
    text_checkpoint: Path,
    write_rows: Callable[..., Path],
) -> None:
    _, url = own_prefect
    rows = write_rows([{"prompt": f"tune {i}"} for i in range(2000)])
    command = ["run", "--manifest", str(rows), "--output", "set", "--model", str(text_checkpoint), *SMALL]
    run = cli.start(*command, "--set", "cluster.shard_rows=4", PREFECT_API_URL=url, RAY_ADDRESS=None)
    wait_until(partial(has_more_parts, str(cli.folder / "set"), 0))
    deadline = time.monotonic() + 60
    while not (flow_runs := ask(url, "flow_runs", {"flow_runs": {"state": {"type": {"any_": ["RUNNING"]}}}})):
        assert time.monotonic() < deadline, "the run is not recorded"
        time.sleep(0.5)
    flow_run = f"{url}/flow_runs/{flow_runs[0]['id']}"
    httpx.post(f"{flow_run}/set_state", json={"state": {"type": "CANCELLING"}}, timeout=30).raise_for_status()
    _, err = run.communicate(timeout=60)
    assert run.returncode == 130, err
    assert "cancelled in Prefect" in err
    assert "Run the same command again to go on" in err
    assert httpx.get(flow_run, timeout=30).json()["state"]["type"] == "CANCELLED"


@pytest.mark.slow
def test_two_runs_at_once_where_prefect_was_never_used(
    cli: Cli, text_checkpoint: Path, write_rows: Callable[..., Path], tmp_path: Path
) -> None:
    rows = write_rows([{"prompt": f"tune {i}"} for i in range(40)])
    command = ["run", "--manifest", str(rows), "--model", str(text_checkpoint), *SMALL, "--set", "cluster.shard_rows=4"]
    nothing = {"PREFECT_API_URL": None, "RAY_ADDRESS": None, "PREFECT_HOME": None, "HOME": str(tmp_path)}
    runs = [cli.start(*command, "--output", name, **nothing) for name in ("one", "two")]
    for name, run in zip(("one", "two"), runs, strict=True):
        out, err = run.communicate(timeout=300)
        assert run.returncode == 0, err
        assert "40 of 40 clips made" in out
        assert "Prefect" not in err
        assert len(sounds(str(cli.folder / name))) == 40
    assert not (tmp_path / ".prefect").exists(), "the user's own Prefect stays as it was"
