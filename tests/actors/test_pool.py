"""Real faults: processes that are killed, stopped or broken under a pool, on a real Ray with the real engine."""

import json
import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

import musicgen.dataset
from actors.cluster import join_cluster
from actors.messages import ActorsFailed
from musicgen.cluster_settings import ClusterSettings
from musicgen.errors import JobError, ModelError
from tests.actors import engines
from tests.actors.conftest import QUICK

pytestmark = pytest.mark.timeout(280, func_only=True)


def test_killed_and_silent_actors_cost_time_and_nothing_else(planned):
    """They make the bytes that a run in one process makes, without Ray."""
    prompts = [f"tune {i}" for i in range(24)]
    with join_cluster(ClusterSettings(address="none", cpus_per_actor=1)) as process:
        undisturbed = replace(planned(prompts, "undisturbed", shard_rows=16), cluster=process)
    alone = undisturbed.run()
    assert [actor.pid for actor in alone.loaded_actors] == [os.getpid()]
    assert alone.progress.made == 24

    disturbed = planned(prompts, "disturbed", actors=2, shard_rows=3)
    struck: list[int] = []

    def end_both(pool, progress) -> None:
        if not struck and len(pool._loaded_actors) == 2 and progress.settled >= 1:
            struck[:] = [actor.pid for actor in pool._loaded_actors]
            os.kill(struck[0], signal.SIGKILL)
            os.kill(struck[1], signal.SIGSTOP)

    result = disturbed.run(engines.make_slow, watch=end_both)
    assert (result.progress.crashes, result.progress.kills, result.given_up) == (1, 1, {})
    assert (result.progress.made, result.progress.failed) == (24, 0)
    assert disturbed.sounds() == undisturbed.sounds()
    assert disturbed.engines() == undisturbed.engines()
    deadline = time.monotonic() + 10
    while os.path.exists(f"/proc/{struck[1]}") and time.monotonic() < deadline:  # the stopped process does not linger
        time.sleep(0.1)
    assert not os.path.exists(f"/proc/{struck[1]}")


@pytest.mark.slow
def test_rows_that_end_their_process_or_break_the_engine_are_found_and_the_others_made(planned):
    run = planned(["tune 0", "tune 1", "abort now", "tune 2", "raise now", "tune 3"], actors=2, shard_rows=2)
    result = run.run(engines.make_faulty)
    assert (result.progress.made, result.progress.failed, result.given_up) == (4, 2, {})
    failures = {row["prompt"]: row for row in run.failures()}
    assert {prompt: row["error_class"] for prompt, row in failures.items()} == {
        "abort now": "crash",
        "raise now": "generation",
    }
    assert "the engine divided by zero" in failures["raise now"]["error"]
    assert failures["abort now"]["source"].endswith(":4")
    assert len(run.sounds()) == 4


@pytest.mark.slow
def test_the_only_row_of_a_run_is_recorded_if_it_ends_its_process(planned):
    run = planned(["abort now"], actors=1)
    result = run.run(engines.make_faulty)
    assert (result.progress.made, result.progress.failed, result.given_up) == (0, 1, {})
    (failure,) = run.failures()
    assert failure["error_class"] == "crash"


@pytest.mark.parametrize(
    ("make_engine", "reason"),
    [
        pytest.param(engines.end_process, "its process ended", marks=pytest.mark.slow),
        (engines.raise_os_error, "OSError: libcudart.so.12"),
        pytest.param(engines.raise_store_error, "s3://bucket: 503 Slow Down", marks=pytest.mark.slow),
    ],
)
def test_actors_that_cannot_start_end_the_run_with_the_reason(planned, make_engine, reason):
    run = planned(["tune"])
    started = time.monotonic()
    with pytest.raises(ActorsFailed, match=rf"no generator actor could start \(2 attempts\).*{reason}"):
        run.run(make_engine)
    assert time.monotonic() - started < 60
    assert not list(run.store.list(f"runs/{run.plan.run}/drivers"))


@pytest.mark.slow
def test_processes_that_all_end_at_their_first_step_end_the_run_and_condemn_no_row(planned):
    run = planned([f"tune {i}" for i in range(8)], actors=1, shard_rows=4)
    with pytest.raises(
        ActorsFailed, match=r"3 actors ended one after another without having made a clip.*process ended"
    ):
        run.run(engines.make_dying)
    assert not list(run.store.list("index"))
    assert not list(run.store.list("failures"))
    assert run.run().progress.made == 8


@pytest.mark.slow
def test_an_actor_that_is_killed_again_and_again_after_its_first_clip_costs_no_row(planned):
    run = planned([f"tune {i}" for i in range(12)], actors=1, shard_rows=2)
    killed: list[int] = []

    def kill(pool, progress) -> None:
        pid = pool._loaded_actors[-1].pid if pool._loaded_actors else 0
        if (
            len(killed) < 5
            and pid not in killed
            and any(state.clips for state in pool._loop._dispatcher.actors.values())
        ):
            killed.append(pid)
            os.kill(pid, signal.SIGKILL)

    result = run.run(engines.make_slow, watch=kill)
    assert (result.progress.made, result.progress.failed, result.progress.crashes) == (12, 0, len(killed))
    assert len(killed) == 5
    assert len(run.sounds()) == 12


@pytest.mark.slow
def test_two_drivers_share_the_rows_of_a_run(planned):
    run = planned([f"tune {i}" for i in range(80)], actors=1, shard_rows=4)
    with ThreadPoolExecutor(2) as threads:
        results = list(threads.map(lambda _: run.run(engines.make_counting), range(2)))
    assert sum(result.progress.made for result in results) == 80
    assert [result.progress.settled for result in results] == [80, 80]
    assert all(result.progress.made >= 8 for result in results)
    assert len(run.sounds()) == 80
    generated = len(list(Path(f"{run.store.uri}.rows").iterdir()))
    assert generated <= 88
    assert not list(run.store.list(f"runs/{run.plan.run}/drivers"))


@pytest.mark.slow
def test_a_store_that_fails_while_an_actor_loads_costs_one_start(planned):
    run = planned(["tune"])
    result = run.run(engines.raise_store_error_once)
    assert (result.progress.made, result.progress.crashes, len(result.loaded_actors)) == (1, 0, 1)
    assert list(run.store.list("audio"))


def test_a_pool_that_has_not_run_has_an_empty_result(planned):
    result = planned(["tune"]).pool().result()
    assert (result.progress.settled, result.given_up, result.loaded_actors, result.seconds) == (0, {}, (), 0.0)


def test_a_worker_with_another_checkpoint_or_other_versions_stops_the_run_at_once(planned, monkeypatch):
    run = planned(["tune"])
    other = replace(run, plan=replace(run.plan, model=replace(run.plan.model, identity="0" * 64)))
    with pytest.raises(ModelError, match="is another checkpoint"):
        other.run()
    pool = run.pool()
    pool._config = replace(pool._config, versions={**pool._config.versions, "transformers": "4.0"})
    with pytest.raises(JobError, match=r"transformers .*\(driver: 4\.0\)"):
        pool.run([0], 1, print)


def test_a_folder_that_workers_do_not_see_is_reported_at_once(planned, tmp_path):
    run = planned(["tune"])
    pool = run.pool()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    pool._config = replace(pool._config, output=str(elsewhere))
    with pytest.raises(JobError, match="not shared between the machines"):
        pool.run([0], 1, print)


@pytest.mark.slow
def test_all_actors_take_the_slots_of_the_first(planned):
    run = planned([f"tune {i}" for i in range(4)], slots="auto", shard_rows=2)
    run.store.write(f"runs/{run.plan.run}/slots.json", b'{"slots": 3}')
    result = run.run()
    assert {actor.slots for actor in result.loaded_actors} == {3}
    assert result.progress.made == 4


@pytest.mark.slow
def test_an_actor_without_memory_is_replaced_by_one_with_fewer_slots_and_every_clip_names_its_own(planned):
    run = planned([f"tune {i}" for i in range(40)], slots="auto", actors=1, shard_rows=4)
    run.store.write(f"runs/{run.plan.run}/slots.json", b'{"slots": 8}')
    result = run.run(engines.make_cramped)
    assert [actor.slots for actor in result.loaded_actors] == [8, 4, 2]
    progress = result.progress
    assert (progress.made, progress.failed, progress.crashes, progress.losses) == (40, 0, 0, 2)
    assert json.loads(run.store.read(f"runs/{run.plan.run}/slots.json"))["slots"] == 2
    table = musicgen.dataset.open_dataset(run.store.uri).to_arrow(["engine"]).to_pydict()
    fingerprints = [json.loads(engine) for engine in table["engine"]]
    assert {fingerprint["slots"] for fingerprint in fingerprints} <= {8, 4, 2}
    assert not any("halved_from" in fingerprint for fingerprint in fingerprints)


@pytest.mark.slow
def test_shards_that_the_store_rejects_are_given_up_and_the_next_run_goes_on(planned, tmp_path):
    run = planned([f"tune {i}" for i in range(4)], shard_rows=2)
    index = tmp_path / "set" / "index"
    index.write_text("a file where the folder of the index belongs")
    result = run.run(limits=replace(QUICK, storage_errors=2, failed_starts=3))
    assert set(result.given_up) == {0, 1}
    assert "index" in result.given_up[0]
    index.unlink()
    assert run.run().progress.made == 4


@pytest.mark.slow
def test_what_another_driver_committed_is_not_made_again(planned):
    run = planned([f"tune {i}" for i in range(4)], shard_rows=2)
    pool, shards = run.pool(), [0, 1]
    first = run.run()
    second = pool.run(shards, 4, lambda progress: None)  # as if both had begun with nothing committed
    assert (first.progress.made, second.progress.made, second.progress.rows_elsewhere) == (4, 0, 4)
    assert second.progress.settled == 4
    assert len(run.sounds()) == 4
    assert len(list(run.store.list("audio"))) == 4
