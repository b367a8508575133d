"""`musicgen run` as a user sees it: from a bucket to a bucket, through Prefect and a Ray cluster started elsewhere."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from musicgen.storage import open_store
from tests.conftest import S3
from tests.flows.conftest import Cli, sounds, told

pytestmark = pytest.mark.timeout(290, func_only=True)

SMALL = ("--set", "generation.duration_s=1", "--set", "cluster.slots=4", "--set", "cluster.cpus_per_actor=1")


def wait_for_index(uri: str, parts: int = 1, timeout_s: float = 90) -> None:
    """Until that many shards are committed."""
    deadline = time.monotonic() + timeout_s
    while sum(1 for _ in open_store(uri).list("index")) < parts:
        assert time.monotonic() < deadline, "nothing was committed"
        time.sleep(0.05)


def test_from_bucket_to_bucket_again_and_grown(served_cli: Cli, s3: S3, text_checkpoint: Path, write_rows: Callable[..., Path]):
    rows = [{"caption": f"tune {i}", "ytid": f"y{i}", "mood": "calm"} for i in range(20)]
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
    assert (planned["new"], planned["made"], planned["shards"]) == (20, 0, 4)
    assert list(store.list("set")) == []  # a plan writes nothing

    done = served_cli("run", str(job))
    for word in ("20 of 20 clips made", f"{s3.uri}/set", "listen", "load", "duckdb", "verify"):
        assert word in done.stdout
    assert "20/20 clips" in done.stderr
    assert not any(noise in done.stderr for noise in ("Warning", "WARN", "INFO", "prefect", "raylet"))
    first = sounds(f"{s3.uri}/set")
    assert len(first) == 20

    again = served_cli("run", str(job))
    assert "Nothing to make" in again.stdout

    store.write("rows.csv", write_rows([{"caption": "new", "ytid": "n"}, *rows], "grown.csv").read_bytes())
    grown = served_cli("run", str(job), "--json")
    assert (told(grown)["rows"], told(grown)["made"]) == (1, 1)
    assert first.items() < sounds(f"{s3.uri}/set").items()

    assert "sound; 21 rows" in served_cli("verify", f"{s3.uri}/set", "--deep").stdout
    status = told(served_cli("status", f"{s3.uri}/set", "--json"))
    assert sorted(run["made"] for run in status["runs"]) == [1, 20]


def test_killed_stopped_and_interrupted_runs_go_on(served_cli: Cli, s3: S3, text_checkpoint: Path, write_rows: Callable[..., Path]):
    rows = str(write_rows([{"prompt": f"tune {i}"} for i in range(48)]))
    common = ["run", "--manifest", rows, "--model", str(text_checkpoint), *SMALL]
    served_cli(*common, "--output", f"{s3.uri}/calm", "--set", "cluster.shard_rows=24")

    disturbed = [*common, "--output", f"{s3.uri}/wild", "--set", "cluster.shard_rows=3"]
    parts = 0
    for blow, code in ((signal.SIGKILL, -signal.SIGKILL), (signal.SIGTERM, 130), (signal.SIGINT, 130)):
        driver = served_cli.start(*disturbed)
        wait_for_index(f"{s3.uri}/wild", parts + 2)
        driver.send_signal(blow)
        struck = time.monotonic()
        _, err = driver.communicate(timeout=60)
        assert driver.returncode == code, err
        if code == 130:
            assert time.monotonic() - struck < 15
            assert "Run the same command again to go on" in err
            assert "Traceback" not in err
        parts = sum(1 for _ in open_store(f"{s3.uri}/wild").list("index"))
        assert parts < 16, "it was over before it was struck"
    last = served_cli(*disturbed)
    assert "going on with run" in last.stderr
    assert sounds(f"{s3.uri}/wild") == sounds(f"{s3.uri}/calm")
    assert served_cli("verify", f"{s3.uri}/wild", "--deep").returncode == 0


def test_ten_kinds_of_bad_rows_beside_good_ones(served_cli: Cli, text_checkpoint: Path, write_rows: Callable[..., Path]):
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

    import musicgen.dataset

    failures = {row["id"]: row for row in musicgen.dataset.open(str(output)).failures().to_pylist()}
    assert set(failures) == set(bad)
    lines = manifest.read_text().splitlines()
    for name, row in failures.items():
        assert row["error_class"] in ("invalid", "melody")
        assert row["error"]
        number = int(row["source"].rpartition(":")[2])
        assert lines[number - 1].startswith(f"{name},"), f"{name} is said to be in line {number}"
        assert row["source"] in done.stdout or len(bad) > 10
    assert "Nothing to make" in served_cli("run", *args, expect=3).stdout


def test_alone_on_a_laptop(cli: Cli, text_checkpoint: Path, write_rows: Callable[..., Path]):
    """No Prefect server, no Ray, no job file: both are started, and nothing of them is left."""
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


def test_help_is_quick(cli: Cli):
    started = time.monotonic()
    cpu = os.times().children_user
    for command in ("run", "plan", "status", "verify", "models"):
        assert "--verbose" in cli(command, "--help").stdout
    assert os.times().children_user - cpu < 5.0, f"{time.monotonic() - started:.1f} s for five"
