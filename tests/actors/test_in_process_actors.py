"""The actor of a run without Ray: what its faults come to."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from actors.cluster import Cluster, join_cluster
from actors.messages import ActorsFailed
from musicgen.cluster_settings import ClusterSettings
from musicgen.errors import ModelError
from tests.actors import engines
from tests.actors.conftest import QUICK
from tests.actors.in_process import ActorInProcess

pytestmark = pytest.mark.timeout(200, func_only=True)


@pytest.fixture(scope="module")
def cluster() -> Cluster:
    """One process, in the place of the Ray of the other tests."""
    with join_cluster(ClusterSettings(address="none", cpus_per_actor=1)) as cluster:
        return cluster


def test_an_engine_that_fails_is_replaced_and_its_row_recorded(planned: Callable[..., Any]) -> None:
    run = planned(["tune 0", "tune 1", "raise now", "tune 2"], shard_rows=2)
    result = run.run(engines.make_faulty)
    assert (result.progress.made, result.progress.failed, result.given_up) == (3, 1, {})
    assert [row["prompt"] for row in run.failures()] == ["raise now"]
    assert result.progress.crashes > 0
    assert result.cluster.startswith("this machine, in one process without Ray")


def test_a_model_that_cannot_be_loaded_ends_the_run_with_the_reason(planned: Callable[..., Any]) -> None:
    with pytest.raises(ActorsFailed, match="libcudart"):
        planned(["tune"]).run(engines.raise_os_error)

    def refuse(config: object) -> None:
        raise ModelError("another checkpoint")

    with pytest.raises(ModelError, match="another checkpoint"):
        planned(["tune"], "refused").run(refuse)


def test_generation_that_stands_still_ends_the_run(planned: Callable[..., Any], monkeypatch: Any) -> None:
    monkeypatch.setattr("actors.in_process_actors._STALL_WAIT_S", 0.2)
    stuck = engines.ScriptedEngine()
    stuck.may_step.clear()
    with pytest.raises(ActorsFailed, match="in one process it cannot be ended alone"):
        planned(["tune"]).run(lambda config: stuck, replace(QUICK, stall_timeout_s=1.0))
    stuck.may_step.set()


def test_rows_of_a_run_in_one_process_are_committed(tmp_path: Path) -> None:
    actor = ActorInProcess(tmp_path, 3, str(tmp_path / "out"))
    with actor.making() as report:
        assert report.result().made == 3
    assert actor.generator.close(5.0)
    assert actor.generator.heartbeat().clips == 3  # nothing is asked of the engine that is gone
