"""`musicgen run` as a user sees it: from a bucket to a bucket, through Prefect and a Ray cluster started elsewhere."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import httpx
import pytest

import musicgen.dataset
from musicgen.storage import open_store
from tests.conftest import S3
from tests.flows.conftest import Cli, sounds, told

pytestmark = pytest.mark.timeout(290, func_only=True)

SMALL = ("--set", "generation.duration_s=1", "--set", "cluster.slots=4", "--set", "cluster.cpus_per_actor=1")


def count_parts(uri: str) -> int:
    """How many shards are committed."""
    return sum(1 for _ in open_store(uri).list("index"))


def has_more_parts(uri: str, parts: int) -> bool:
    """Whether more than so many shards are committed."""
    return count_parts(uri) > parts


def has_another_driver(uri: str, before: set[str]) -> bool:
    """Whether there is a driver besides those of before."""
    return list_drivers(uri) > before


def list_drivers(uri: str) -> set[str]:
    """The tokens of drivers that are at work, or were killed."""
    return {info.path for info in open_store(uri).list("runs") if "/drivers/" in info.path}


def wait_until(condition: Callable[[], bool], timeout_s: float = 90) -> None:
    """Wait until the condition comes true."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "nothing was committed"
        time.sleep(0.05)


def strike_and_go_on(cli: Cli, command: list[str], uri: str, *blows: signal.Signals) -> None:
    """Strike one driver after the other half way, and let the last one finish."""
    for blow in blows:
        code = -blow if blow == signal.SIGKILL else 130
        before = list_drivers(uri)
        driver = cli.start(*command)
        wait_until(partial(has_another_driver, uri, before))  # else a part may be of actors of the one before
        wait_until(partial(has_more_parts, uri, count_parts(uri)))
        driver.send_signal(blow)
        struck = time.monotonic()
        _, err = driver.communicate(timeout=60)
        assert driver.returncode == code, err
        if code == 130:
            assert time.monotonic() - struck < 20
            assert "Run the same command again to go on" in err
            assert "Traceback" not in err
        assert told(cli("status", uri, "--json"))["runs"][0]["missing"] > 0, "it was over before it was struck"
    assert "going on with run" in cli(*command).stderr


def test_from_bucket_to_bucket_again_and_grown(
    served_cli: Cli, s3: S3, text_checkpoint: Path, write_rows: Callable[..., Path]
):
    rows = [{"caption": f"tune {i}", "ytid": f"y{i}", "mood": "calm"} for i in range(24)]
    store = open_store(s3.uri)
    store.write("rows.csv", write_rows(rows).read_bytes())
    job = served_cli.folder / "job.yaml"
    job.write_text(f"""
manifest: {{uri: {s3.uri}/rows.csv, columns: {{prompt: caption, id: ytid}}}}
model: {{name: {text_checkpoint}}}
generation: {{duration_s: 1}}
cluster: {{actors: 2, cpus_per_actor: 1, slots: 4, shard_rows: 6}}
output: {{uri: {s3.uri}/set}}
""")
    planned = told(served_cli("plan", str(job), "--json"))
    assert (planned["new"], planned["made"], planned["shards"]) == (24, 0, 4)
    assert planned["actors"] == {"min": 2, "max": 2, "gpus_per_actor": 0.0}
    assert list(store.list("set")) == []  # a plan writes nothing

    done = served_cli("run", str(job))
    for word in ("24 of 24 clips made", f"{s3.uri}/set", "listen", "load", "duckdb", "verify"):
        assert word in done.stdout
    assert "24/24 clips" in done.stderr
    assert not any(noise in done.stderr for noise in ("Warning", "WARN", "INFO", "prefect", "raylet"))
    first = sounds(f"{s3.uri}/set")
    assert len(first) == 24

    again = served_cli("run", str(job))
    assert "Nothing to make" in again.stdout

    store.write("rows.csv", write_rows([{"caption": "new", "ytid": "n"}, *rows], "grown.csv").read_bytes())
    grown = served_cli("run", str(job), "--json")
    assert (told(grown)["rows"], told(grown)["made"]) == (1, 1)
    assert first.items() < sounds(f"{s3.uri}/set").items()

    assert "OK; 25 rows" in served_cli("verify", f"{s3.uri}/set", "--deep").stdout
    status = told(served_cli("status", f"{s3.uri}/set", "--json"))
    assert sorted(run["made"] for run in status["runs"]) == [1, 24]


@pytest.mark.slow
@pytest.mark.timeout(450, func_only=True)
def test_whatever_strikes_the_sounds_are_the_same(
    served_cli: Cli, s3: S3, text_checkpoint: Path, write_rows: Callable[..., Path]
):
    rows = str(write_rows([{"prompt": f"tune {i}"} for i in range(24)]))
    run = ["run", "--manifest", rows, "--model", str(text_checkpoint), *SMALL, "--set", "cluster.actors=2"]
    served_cli(*run, "--output", f"{s3.uri}/calm")
    wild = [*run, "--output", f"{s3.uri}/wild", "--set", "generation.samples=4"]
    wild += ["--set", "cluster.shard_rows=1", "--set", "cluster.slots=2"]  # so that few rows are in hand at a time
    strike_and_go_on(served_cli, wild, f"{s3.uri}/wild", signal.SIGKILL, signal.SIGTERM)
    calm, wild_sounds = sounds(f"{s3.uri}/calm"), sounds(f"{s3.uri}/wild")
    assert (len(calm), len(wild_sounds)) == (24, 96)
    assert calm.items() < wild_sounds.items()


@pytest.mark.slow
def test_ctrl_c_stops_and_the_next_run_goes_on(
    served_cli: Cli, s3: S3, text_checkpoint: Path, write_rows: Callable[..., Path]
):
    rows = write_rows([{"prompt": f"tune {i}"} for i in range(80)])
    command = [
        "run",
        "--manifest",
        str(rows),
        "--output",
        s3.uri,
        "--model",
        str(text_checkpoint),
        *SMALL,
        "--set",
        "cluster.shard_rows=1",
    ]
    strike_and_go_on(served_cli, command, s3.uri, signal.SIGINT)
    assert len(sounds(s3.uri)) == 80


def test_ten_kinds_of_bad_rows_beside_good_ones(
    served_cli: Cli, prefect_url: str, text_checkpoint: Path, write_rows: Callable[..., Path]
):
    bad: dict[str, dict[str, object]] = {
        "no prompt": {"prompt": ""},
        "blank prompt": {"prompt": "   "},
        "too long": {"prompt": "a", "duration_s": 10**6},
        "no length": {"prompt": "b", "duration_s": 0},
        "negative": {"prompt": "c", "duration_s": -3},
        "not a number": {"prompt": "d", "duration_s": "long"},
        "infinite": {"prompt": "e", "duration_s": "inf"},
        "temperature": {"prompt": "f", "temperature": -1},
        "top_p": {"prompt": "g", "top_p": 7},
        "melody": {"prompt": "h", "melody": "/etc/passwd"},
        "seed": {"prompt": "i", "seed": "x"},
        "samples": {"prompt": "j", "samples": 0},
    }
    rows = [{"id": name, **row} for name, row in bad.items()]
    for i in range(6):
        rows.insert(2 * i, {"id": f"good {i}", "prompt": f"good {i}"})
    manifest, output = write_rows(rows), served_cli.folder / "set"
    args = ["--manifest", str(manifest), "--output", str(output), "--model", str(text_checkpoint), *SMALL]
    done = served_cli("run", *args, expect=3)
    assert "6 of 6 clips made" in done.stdout
    check_prefect(prefect_url, str(output), made=6, refused=len(bad))

    failures = {row["id"]: row for row in musicgen.dataset.open_dataset(str(output)).failures().to_pylist()}
    assert set(failures) == set(bad)
    lines = manifest.read_text().splitlines()
    for name, row in failures.items():
        assert row["error_class"] in ("invalid", "melody")
        assert row["error"]
        number = int(row["source"].rpartition(":")[2])
        assert lines[number - 1].startswith(f"{name},"), f"{name} is said to be in line {number}"
        assert row["source"] in done.stdout or len(bad) > 10
    assert "Nothing to make" in served_cli("run", *args, expect=3).stdout


def check_prefect(url: str, dataset: str, made: int, refused: int) -> None:
    """A run with failed rows is completed in Prefect, of two tasks, with a warning among its artifacts."""
    (run,) = musicgen.dataset.open_dataset(dataset).runs()
    artifacts = {a["key"]: a for a in ask(url, "artifacts", {}) if (a["key"] or "").endswith(run)}
    assert set(artifacts) == {f"progress-{run}", f"counts-{run}", f"failures-{run}", f"summary-{run}"}
    assert float(artifacts[f"progress-{run}"]["data"]) == 100.0
    counts = {row[""]: row["rows"] for row in json.loads(artifacts[f"counts-{run}"]["data"])}
    assert counts == {"planned": made, "made": made, "failed": 0, "refused while planning": refused, "missing": 0}
    assert "WARNING" in artifacts[f"failures-{run}"]["description"]
    assert "duration_s" in artifacts[f"failures-{run}"]["data"]
    assert f"{made} of {made} clips made" in artifacts[f"summary-{run}"]["data"]
    ours = {"flow_runs": {"id": {"any_": [artifacts[f"summary-{run}"]["flow_run_id"]]}}}
    (flow_run,) = ask(url, "flow_runs", ours)
    assert flow_run["state"]["type"] == "COMPLETED"
    tasks = [task["name"].partition("-")[0] for task in ask(url, "task_runs", ours)]
    assert sorted(tasks) == ["generate", "publish"], "the command line has planned before"


def ask(url: str, what: str, filters: dict) -> list[dict]:
    """What a Prefect server has."""
    reply = httpx.post(f"{url}/{what}/filter", json=filters, timeout=30)
    reply.raise_for_status()
    return reply.json()


def test_alone_on_a_laptop(cli: Cli, text_checkpoint: Path, write_rows: Callable[..., Path]):
    """No Prefect server, no Ray, no job file: both are started, and nothing of them is left.

    Packages of the user's in the working folder that are named like ours do no harm.
    """
    for package in ("flows", "actors", "configs"):
        (cli.folder / package).mkdir()
        (cli.folder / package / "__init__.py").write_text("raise ImportError('the package of the user')")
    rows = write_rows([{"prompt": f"tune {i}"} for i in range(3)])
    nothing = {"PREFECT_API_URL": None, "RAY_ADDRESS": None}
    args = ["run", "--manifest", str(rows), "--output", "out", "--model", str(text_checkpoint), *SMALL]
    driver = cli.start(*args, **nothing)
    children: set[int] = set()
    while driver.poll() is None:
        children |= _descendants(driver.pid)
        time.sleep(0.2)
    out, err = driver.communicate()
    assert driver.returncode == 0, err
    assert "3 of 3 clips made" in out
    assert "local Ray started for this run" in err
    assert len(sounds(str(cli.folder / "out"))) == 3
    time.sleep(1)
    assert [pid for pid in children if _alive(pid)] == []


def _descendants(pid: int) -> set[int]:
    import psutil

    try:
        return {child.pid for child in psutil.Process(pid).children(recursive=True)}
    except psutil.Error:
        return set()


def _alive(pid: int) -> bool:
    import psutil

    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def test_help_imports_nothing_that_takes_long(cli: Cli):
    for command in ("run", "plan", "status"):
        assert "--verbose" in cli(command, "--help").stdout
    code = "import sys, flows.cli.main; print(*{name.partition('.')[0] for name in sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    slow = {"numpy", "pyarrow", "torch", "transformers", "ray", "prefect", "duckdb", "librosa", "scipy", "pandas"}
    assert slow & set(done.stdout.split()) == set()
