"""`cluster.address: none`: one process, without Ray and Prefect."""

import json
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

import flows.cli.run_job
from actors.cluster import Cluster, join_cluster
from flows.cli.main import app
from tests.flows.conftest import Cli, sounds

pytestmark = pytest.mark.timeout(280, func_only=True)
NONE = ("--set", "cluster.address=none", "--set", "cluster.slots=4", "--set", "cluster.shard_rows=2")
BARRED = "import sys\nsys.modules['ray'] = sys.modules['prefect'] = None\n"


@pytest.fixture
def bare_cli(cli: Cli, tmp_path: Path) -> Cli:
    """The command line where neither Ray nor Prefect can be imported, and nothing answers where they are said to be."""
    (tmp_path / "barred").mkdir()
    (tmp_path / "barred/sitecustomize.py").write_text(BARRED)
    path = f"{tmp_path / 'barred'}:{cli.env['PYTHONPATH']}"
    away = {"RAY_ADDRESS": "127.0.0.1:1", "PREFECT_API_URL": "http://127.0.0.1:1/api"}
    return Cli(cli.folder, {**cli.env, **away, "PYTHONPATH": path}, cli.started)


def test_a_run_without_ray_and_prefect_is_interrupted_and_goes_on(
    bare_cli: Cli, text_checkpoint: Path, write_rows: Callable[..., Path], tmp_path: Path
) -> None:
    rows = write_rows([{"prompt": f"tune {i}", "duration_s": 3} for i in range(24)])
    command = ["run", "--manifest", str(rows), "--model", str(text_checkpoint), *NONE]
    driver = bare_cli.start(*command, "--output", "out")
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("out/index/*/*.parquet")):
        assert driver.poll() is None, driver.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    driver.send_signal(signal.SIGTERM)
    out, err = driver.communicate(timeout=30)
    assert driver.returncode == 130, err
    assert "stopped; what is committed is safe" in err
    assert "Traceback" not in out + err
    summary = json.loads(bare_cli(*command, "--output", "out", "--json").stdout)
    assert (summary["made"], summary["missing"]) == (24, 0)
    assert 0 < summary["audio_s"] < 72  # the second driver made the rest
    assert len(sounds(str(tmp_path / "out"))) == 24
    assert "1 actor on CPUs" in err


def test_a_proxy_that_is_not_sent_to_workers_elsewhere_is_named_once(
    text_checkpoint: Path, write_rows: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, capfd
) -> None:
    @contextmanager
    def join(*arguments: object) -> Iterator[Cluster]:
        with join_cluster(*arguments) as cluster:
            yield replace(cluster, started_here=False)

    monkeypatch.setattr(flows.cli.run_job, "join_cluster", join)
    monkeypatch.setenv("HTTPS_PROXY", "http://user:secret@127.0.0.1:9")
    rows = write_rows([{"prompt": "tune", "duration_s": 0.2}])
    output = rows.parent / "out"
    command = ["run", "--manifest", str(rows), "--model", str(text_checkpoint), "--output", str(output), *NONE]
    assert app(command, standalone_mode=False) == 0
    printed = capfd.readouterr()
    assert printed.err.count("not sent to the workers, because Ray would show the password: HTTPS_PROXY;") == 1
    assert "secret" not in printed.out + printed.err


def test_what_needs_ray_is_refused_by_name(bare_cli: Cli, write_rows: Callable[..., Path]) -> None:
    rows = str(write_rows([{"prompt": "tune"}]))
    for command in ("plan", "run"):
        refused = bare_cli(command, "--manifest", rows, "--output", "out", "--actors", "2", *NONE, expect=2)
        assert "asks for 2 actors with address none" in refused.stderr
