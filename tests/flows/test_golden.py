"""Datasets of an earlier version (tests/fixtures/golden): opened, verified, resumed and grown by this one."""

import hashlib
import json
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pytest

import musicgen.dataset
from tests.flows.conftest import Cli

GOLDEN = Path(__file__).parents[1] / "fixtures" / "golden"
DATASETS = ("files", "parquet", "webdataset")
MADE = ("made", "pending", "grown")


class Row(NamedTuple):
    """A line of keys.txt."""

    dataset: str
    run: str
    id: str
    sample: str
    key: str
    state: str


ROWS = [Row(*line.split(" ")) for line in (GOLDEN / "keys.txt").read_text(encoding="utf-8").splitlines()]


def keys_of(dataset: str, *states: str) -> set[tuple[str, str, str]]:
    """Run, id and key of the golden rows in one of these states."""
    return {(row.run, row.id, row.key) for row in ROWS if row.dataset == dataset and row.state in states}


def made_keys(folder: Path) -> set[tuple[str, str, str]]:
    """Run, id and key of every row in a dataset's index; no key may be there twice."""
    rows = musicgen.dataset.open(str(folder)).to_arrow(["run", "id", "key"]).to_pylist()
    assert len({row["key"] for row in rows}) == len(rows)
    return {(row["run"], row["id"] or "-", row["key"]) for row in rows}


def committed_files(folder: Path) -> dict[str, bytes]:
    """Every file that a commit has put, by its path."""
    files = (path for name in ("index", "audio", "failures") for path in (folder / name).rglob("*"))
    return {str(path.relative_to(folder)): path.read_bytes() for path in files if path.is_file()}


@pytest.fixture
def golden(tmp_path: Path) -> Path:
    """A copy of all datasets, in another folder than they were made in."""
    return Path(shutil.copytree(GOLDEN, tmp_path / "copy"))


@pytest.fixture
def golden_cli(cli: Cli, golden: Path) -> Cli:
    """The command line in that folder, on one thread as the datasets were made."""
    return replace(cli, folder=golden, env={**cli.env, "OMP_NUM_THREADS": "1", "RAY_ADDRESS": "local"})


@pytest.mark.parametrize("name", DATASETS)
def test_it_is_opened(golden: Path, name: str) -> None:
    dataset = musicgen.dataset.open(str(golden / name))
    assert made_keys(golden / name) == keys_of(name, "made")
    for row in dataset.to_arrow(["key", "audio_bytes", "audio_sha256", "sample_rate"]).to_pylist():
        assert hashlib.sha256(dataset.audio_bytes(row["key"])).hexdigest() == row["audio_sha256"]
        samples, rate = dataset.audio(row["key"])
        assert rate == row["sample_rate"]
        assert samples.any()
    failures = dataset.failures(all=True).to_pylist()
    recorded = Counter((row["run"], row["id"], row["error_class"]) for row in failures if row["key"])
    expected = Counter((row.run, row.id, row.state) for row in ROWS if row.dataset == name and row.state not in MADE)
    assert recorded == expected
    assert {row["error_class"] for row in failures if not row["key"]} == {"invalid"}


def test_it_is_verified_and_its_runs_are_shown(golden_cli: Cli) -> None:
    for name in DATASETS:
        report = json.loads(golden_cli("verify", name, "--deep", "--json").stdout)
        assert report["rows"] == len([row for row in ROWS if row.dataset == name and row.state == "made"])
        runs = json.loads(golden_cli("status", name, "--json").stdout)["runs"]
        missing = {run["run"] for run in runs if run["missing"] and not run["superseded"]}
        assert missing == {run for run, _, _ in keys_of(name, "pending")}
    superseded = [run["superseded"] for run in json.loads(golden_cli("status", "files", "--json").stdout)["runs"]]
    assert sorted(superseded) == [False, False, False, True]


def test_it_is_planned_with_the_same_keys(golden_cli: Cli) -> None:
    for name in DATASETS:
        plan = json.loads(golden_cli("plan", f"jobs/{name}.yaml", "--json").stdout)
        pending = keys_of(name, "pending")
        assert plan["adopted"] is bool(pending)
        if pending:
            assert {plan["run"]} == {run for run, _, _ in pending}
        else:
            assert (plan["new"], plan["retried"]) == (0, 1), "nothing but the melody that is no sound"
        assert plan["made"] == len(keys_of(name, "made"))


@pytest.mark.parametrize(
    ("name", "address"), [("files", "none"), pytest.param("parquet", "local", marks=pytest.mark.slow)]
)
def test_its_unfinished_run_is_resumed(golden_cli: Cli, golden: Path, name: str, address: str) -> None:
    before = committed_files(golden / name)
    edited = (golden / name / "README.md").read_text().replace("# Generated music", "# My music")
    (golden / name / "README.md").write_text(edited)
    printed = golden_cli("run", f"jobs/{name}.yaml", "--set", f"cluster.address={address}", expect=3).stdout
    assert "README.md was left alone: it has no part that musicgen wrote; the card is in README.musicgen.md" in printed
    assert (golden / name / "README.md").read_text() == edited
    assert "<!-- musicgen:begin" in (golden / name / "README.musicgen.md").read_text()
    assert made_keys(golden / name) == keys_of(name, "made", "pending")
    after = committed_files(golden / name)
    assert {path: after[path] for path in before} == before
    golden_cli("verify", name, "--deep")


@pytest.mark.slow
def test_it_grows(golden_cli: Cli, golden: Path) -> None:
    before = committed_files(golden / "webdataset")
    printed = golden_cli("run", "jobs/webdataset.yaml", "--manifest", "rows/webdataset-[1-5].jsonl", expect=3).stdout
    assert "left alone" not in printed
    assert "<!-- musicgen:begin" in (golden / "webdataset" / "README.md").read_text()
    assert not (golden / "webdataset" / "README.musicgen.md").exists()
    assert made_keys(golden / "webdataset") == keys_of("webdataset", "made", "grown")
    after = committed_files(golden / "webdataset")
    assert {path: after[path] for path in before} == before
    golden_cli("verify", "webdataset", "--deep")
