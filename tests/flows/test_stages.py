"""One way through a job: the command line and the flow run the same stages, and each stage once."""

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import cast

import pytest
import ray
import yaml

import flows.stages
from actors.cluster import Cluster
from actors.messages import RunClosed
from actors.pool import Pool
from musicgen.dataset.pause import put_pause
from musicgen.errors import LimitReached
from musicgen.job import Job
from musicgen.plan.expected_actors import ExpectedActors
from musicgen.storage import open_store
from musicgen.storage.local import LocalStore
from tests.flows.conftest import sounds

SETTINGS = ["--set", "generation.duration_s=0.2", "--set", "cluster.address=local"]
ONCE = {"open": 1, "probe": 1, "resolve": 1, "plan": 1, "join": 1, "generate": 1, "card": 1}


@pytest.fixture
def output(tmp_path: Path) -> str:
    """Where the dataset goes."""
    return str(tmp_path / "dataset")


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch, output: str) -> Counter[str]:
    """Counts the calls of everything that a run should do once, and lets them do it."""
    counter: Counter[str] = Counter()

    def count(owner: object, name: str, label: str) -> None:
        original = getattr(owner, name)

        def counting(*args: object, **kwargs: object) -> object:
            if not (
                args and isinstance(args[0], LocalStore) and args[0].uri != output
            ):  # other stores, such as the manifest's
                counter[label] += 1
            return original(*args, **kwargs)

        monkeypatch.setattr(owner, name, counting)

    count(flows.stages, "open_store", "open")
    count(LocalStore, "probe", "probe")
    count(flows.stages, "resolve_checkpoint", "resolve")
    count(flows.stages, "make_plan", "plan")
    count(ray, "init", "join")
    count(Pool, "run", "generate")
    count(flows.stages, "publish_card", "card")
    return counter


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch, prefect_url: str) -> Iterator[None]:
    from prefect.settings import PREFECT_API_URL, temporary_settings

    monkeypatch.setenv("PREFECT_API_URL", prefect_url)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with temporary_settings({PREFECT_API_URL: prefect_url}):  # Prefect has read its environment already
        yield


def test_the_command_line_does_each_thing_once(
    calls: Counter[str],
    output: str,
    served: None,
    text_checkpoint: Path,
    write_rows: Callable[..., Path],
) -> None:
    from flows.cli.main import app

    rows = write_rows([{"prompt": f"tune {number}"} for number in range(2)])
    command = ["run", "--manifest", str(rows), "--output", output, "--model", str(text_checkpoint), *SETTINGS]
    assert app(command, standalone_mode=False) == 0
    assert dict(calls) == ONCE
    assert len(sounds(output)) == 2


@pytest.mark.slow
def test_the_flow_does_each_thing_once_and_makes_the_same(
    calls: Counter[str],
    output: str,
    served: None,
    text_checkpoint: Path,
    write_rows: Callable[..., Path],
    tmp_path: Path,
) -> None:
    from flows.synthesize import STOPPED, plan_task, synthesize
    from musicgen.job import Job

    rows = write_rows([{"prompt": f"tune {number}"} for number in range(2)])
    path = tmp_path / "job.yaml"
    path.write_text(
        yaml.safe_dump(
            {
                "manifest": {"uri": str(rows)},
                "model": {"name": str(text_checkpoint)},
                "generation": {"duration_s": 0.2},
                "cluster": {"address": "local"},
                "output": {"uri": output},
            }
        )
    )
    summary = synthesize(Job.load(path))
    assert summary is not None
    assert (summary.made, summary.missing) == (2, 0)
    assert "local Ray" in summary.cluster
    assert dict(calls) == ONCE
    assert synthesize(Job.load(path)) is None, "nothing is missing"
    put_pause(open_store(output))
    state = synthesize(Job.load(path), return_state=True)
    assert (state.name, state.type.value) == (STOPPED, "COMPLETED"), "nothing has failed, and nobody is told so"
    assert "is paused by " in (state.message or "")
    assert calls["join"] == 1
    paused = plan_task.fn(flows.stages.open_job(Job.load(path)), ExpectedActors(), ())
    assert isinstance(paused, LimitReached), "Prefect logs what a task raises, with a traceback"


def test_a_run_that_was_closed_before_its_driver_began_names_the_run_that_closed_it(tmp_path: Path) -> None:
    manifest = tmp_path / "rows.csv"
    manifest.write_text("prompt\npiano\nflute\n")
    settings = {
        "manifest": {"uri": str(manifest)},
        "generation": {"duration_s": 0.2},
        "output": {"uri": str(tmp_path / "out"), "supersede_unfinished": True},
    }
    first = flows.stages.open_job(Job.model_validate(settings))
    first_plan = flows.stages.plan_run(first, ExpectedActors()).plan
    manifest.write_text("prompt\npiano\nflute\nstrings\n")
    second_plan = flows.stages.plan_run(flows.stages.open_job(Job.model_validate(settings)), ExpectedActors()).plan
    assert first_plan is not None
    assert second_plan is not None
    result = flows.stages.generate_clips(first, first_plan, cast(Cluster, None), print)  # nothing is pending, so no Ray
    assert result is None
    with pytest.raises(RunClosed, match=f"run {first_plan.run} was closed by run {second_plan.run}"):
        flows.stages.publish_run(first, first_plan, result)
    assert not first.store.exists("README.md"), "the run that closed it publishes the dataset"
