"""`musicgen pause` and `resume`, `status --watch`, and what a run has cost, as a user sees them."""

import json
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from actors.messages import Progress
from flows.cli.main import app
from flows.cli.status_watch import parse_progress, watch_runs
from musicgen.dataset import open_dataset, paths
from musicgen.dataset.driver_token import DriverToken
from musicgen.dataset.run_report import read_report
from musicgen.dataset.verification import verify_dataset
from musicgen.run_plan import format_time
from musicgen.storage import open_store
from tests.fixtures.toy_dataset import ToyDataset


@pytest.fixture
def call() -> Callable[..., Result]:
    """The command line in this process; fails the test unless it exits with `expect`."""

    def run(*arguments: str, expect: int = 0) -> Result:
        result = CliRunner().invoke(app, list(arguments))
        assert result.exit_code == expect, (result.output, result.stderr, result.exception)
        return result

    return run


def test_a_paused_dataset_makes_nothing_until_it_is_resumed(
    call: Callable[..., Result], text_checkpoint: Path, write_rows: Callable[..., Path], tmp_path: Path
) -> None:
    out = str(tmp_path / "out")
    rows = str(write_rows([{"prompt": f"tune {row}", "duration_s": 0.2} for row in range(4)]))
    settings = ("cluster.address=none", "cluster.slots=1", "cluster.shard_rows=1", "cluster.price_per_hour=3600")
    command = ["--manifest", rows, "--output", out, "--model", str(text_checkpoint)]
    command += [word for setting in settings for word in ("--set", setting)]
    call("pause", out, expect=2)
    assert not (tmp_path / "out").exists(), "there is no dataset to pause"
    assert "a cost of" in call("plan", *command).stdout

    stopped = call("run", *command, "--set", "cluster.max_cost=0.000001", expect=5)
    lines = [line for line in stopped.stderr.splitlines() if line.startswith("musicgen:")]
    assert len(lines) == 1
    assert "To go on, run the same command again with --set cluster.max_cost=" in lines[0]
    assert json.loads(call("status", out, "--json").stdout)["runs"][0]["missing"] > 0

    assert "would be paused" in call("pause", out, "--dry-run").stdout
    assert "musicgen resume" in call("pause", out).stdout
    assert "already" in call("pause", out).stdout
    assert "is paused by " in call("status", out).stderr
    made_before = len(list(open_store(out).list("index")))
    refused = call("run", *command, expect=5)
    assert "is paused by " in refused.stderr
    assert "nothing was started. To go on: musicgen resume" in refused.stderr
    assert len(list(open_store(out).list("index"))) == made_before
    planned = json.loads(call("plan", *command, "--json").stdout)
    assert "paused by" in planned["paused"]
    assert planned["estimated_cost"] == pytest.approx(planned["actor_hours"] * 3600, rel=1e-2)
    call("gc", out)
    assert "can go on" in call("resume", out).stdout
    assert "is not paused" in call("resume", out).stdout

    metrics = tmp_path / "musicgen.prom"
    done = call("run", *command, "--set", f"metrics.file={metrics}", "--json", "--log-json")
    summary = json.loads(done.stdout)
    objects = [json.loads(line) for line in done.stderr.splitlines()]
    assert all({"time", "level", "message", "run"} <= set(line) for line in objects)
    committed = [line for line in objects if "is committed: 1 made, 0 failed" in line["message"]]
    assert {(line["run"], line["actor"]) for line in committed} == {(summary["run"], 0)}
    assert len({line["shard"] for line in committed}) == 4 - made_before
    values = dict(line.rsplit(" ", 1) for line in metrics.read_text().splitlines() if not line.startswith("#"))
    made = [int(value) for name, value in values.items() if name.startswith("musicgen_clips_total{")]
    assert made == [4 - made_before]
    assert float(values[f'musicgen_steps_total{{run="{summary["run"]}"}}']) > 0
    assert (summary["made"], summary["missing"]) == (4, 0)
    report = read_report(open_store(out), summary["run"])
    assert report is not None
    assert [bool(session.stopped_by) for session in report.sessions] == [True, False]
    assert not any(session.interrupted for session in report.sessions)
    assert report.cost == pytest.approx(sum(session.actor_s for session in report.sessions), rel=1e-3)
    assert summary["cost"] == pytest.approx(report.cost, abs=0.01)
    page = (tmp_path / f"out/runs/{summary['run']}/report.html").read_text()
    assert summary["page"].endswith(f"runs/{summary['run']}/report.html")
    assert page.count("<audio") == 4
    card = (tmp_path / "out/README.md").read_text()
    assert f"The actors have cost {report.cost:,.2f} (`cluster.price_per_hour`)." in card
    assert verify_dataset(open_dataset(out), deep=True).sound
    (tmp_path / "out/README.md").write_text(card.replace("The actors have cost", "The actors have cost 1"))
    assert not verify_dataset(open_dataset(out), deep=True).sound, "its checksum knows"


def test_watching_shows_the_words_of_the_drivers_terminal_until_it_has_ended(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    toy = ToyDataset(tmp_path, open_store(str(tmp_path / "dataset")))
    plan = toy.plan()
    toy.make_shards(plan, 1)
    path = paths.driver_token(plan.run, "d1")
    steps = iter(
        [
            Progress(6, 3),
            Progress(6, 3, shards_done=1, made=2, generating_s=2.0, audio_s=4.0, waiting_for=("room for 1 actor",)),
            None,
        ]
    )

    def go_on(_: float) -> None:
        progress = next(steps)
        if progress is None:
            toy.store.delete(path)
            return
        now = format_time(datetime.now(UTC))
        token = DriverToken((), 1, "node7", now, now, progress=asdict(progress))
        toy.store.write(path, token.to_json())

    watch_runs(toy.dataset, as_json=False, sleep=go_on)
    assert capsys.readouterr().out.splitlines() == [
        f"run {plan.run} on node7: 0/6 clips, actors are loading the model",
        f"run {plan.run} on node7: 2/6 clips, 33% done, 2.00x real time, 0:04 to go; room for 1 actor",
    ]
    assert parse_progress({"rows": 1, "shards": 1, "of_a_later_release": 2}) == Progress(1, 1)
    assert parse_progress({}) is None
