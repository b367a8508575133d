"""The time of a run: from reports of earlier runs that are like it, else from the model's size."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from musicgen.dataset.run_report import RunReport, Session, describe_hardware, write_report
from musicgen.model.decoder import kernel_library
from musicgen.model.processor import usable_cpus
from musicgen.plan import estimating
from musicgen.plan.estimating import estimate_run, guess_run
from musicgen.plan.expected_actors import ExpectedActors
from musicgen.presets import all_presets
from musicgen.storage import Store, open_store
from tests.actors.test_feeding import spec_of

LARGE = spec_of(all_presets()[-1])
ACTORS = ExpectedActors(1, 1, 0.0, threads=2)
CPU = json.dumps({"device": "cpu", "threads": 2})
MADE = Session(
    "2026-01-01T00:00:00+00:00",
    "2026-01-01T00:01:00+00:00",
    made=8,
    failed=0,
    audio_s=64.0,
    wall_s=60.0,
    actors=1,
    timings_s={"cluster": 5.0, "load": 40.0, "compile": 28.0, "generate": 20.0},
    hardware=describe_hardware(),
    engines=(CPU,),
)


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setattr(estimating, "are_kernels_ready", lambda: True)
    return open_store(str(tmp_path))


def record(store: Store, run: str, session: Session, identity: str = "m", **cluster: object) -> None:
    write_report(store, RunReport(run, {"cluster": cluster}, {"identity": identity}, (session,)))


@pytest.fixture(autouse=True)
def quiet_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that does nothing else, whatever this one does."""
    monkeypatch.setattr("os.getloadavg", lambda: (0.0, 0.0, 0.0))


def test_a_guess_counts_the_load_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    quiet = guess_run(LARGE, ACTORS, 1, 640.0)
    monkeypatch.setattr("os.getloadavg", lambda: (3.5 * usable_cpus(), 0.0, 0.0))
    monkeypatch.setattr(estimating, "_count_other_threads", lambda: 3.5 * usable_cpus())
    assert guess_run(LARGE, ACTORS, 1, 640.0).seconds == pytest.approx(4 * quiet.seconds)
    joined = replace(ACTORS, start="joined")
    assert guess_run(LARGE, joined, 1, 640.0).seconds < quiet.seconds
    monkeypatch.setattr(estimating, "_count_other_threads", lambda: 0.0)  # that load was of what has ended meanwhile
    assert guess_run(LARGE, ACTORS, 1, 640.0) == quiet


def test_the_guess_follows_gpus_and_actors() -> None:
    def generating_s(actors: int, gpus: float, shards: int = 100) -> float:
        estimate = guess_run(LARGE, ExpectedActors(actors, actors, gpus), shards, 3600.0)
        return estimate.seconds - estimate.start_s

    assert generating_s(8, 1.0) == pytest.approx(generating_s(1, 1.0) / 8)
    assert generating_s(1, 0.0) > 30 * generating_s(1, 1.0)
    assert generating_s(64, 1.0, shards=2) == generating_s(2, 1.0)


def test_the_rate_is_that_of_earlier_runs_with_this_model_on_this_machine(store: Store) -> None:
    record(store, "a-1", MADE)
    estimate = estimate_run(store, ["a-1"], "m", LARGE, ACTORS, 1, 640.0)
    assert (estimate.earlier_runs, estimate.rate) == (1, pytest.approx(64.0 / 19.0))
    start_s = 5.0 + (60.0 - 20.0) - 28.0  # not the compiler's
    assert estimate.start_s == pytest.approx(estimating._COMMAND_S + estimating._FIRST_CLIP_S + start_s)
    assert estimate.seconds == pytest.approx(estimate.start_s + 190.0)
    record(store, "a-2", replace(MADE, actors=2, started_at="2026-01-02T00:00:00+00:00"))
    estimate = estimate_run(store, ["a-2", "a-1"], "m", LARGE, ACTORS, 1, 640.0)
    assert (estimate.earlier_runs, estimate.rate) == (2, pytest.approx(128.0 / 57.0))


def test_a_run_that_other_programs_slowed_down_does_not_lengthen_the_next_estimate(store: Store) -> None:
    record(store, "a-1", MADE)
    quiet = estimate_run(store, ["a-1"], "m", LARGE, ACTORS, 1, 640.0)
    record(store, "a-2", replace(MADE, wall_s=200.0, started_at="2026-01-02T00:00:00+00:00"))
    assert estimate_run(store, ["a-2", "a-1"], "m", LARGE, ACTORS, 1, 640.0).start_s == quiet.start_s


def test_other_programs_are_counted_as_they_run(monkeypatch: pytest.MonkeyPatch) -> None:
    assert 0.0 <= estimating._count_other_threads() < 10_000
    monkeypatch.setattr(estimating, "Path", lambda name: Path("/nowhere"))
    assert estimating._count_other_threads() == float("inf")


@pytest.mark.parametrize(
    "other",
    [
        replace(MADE, interrupted=True),
        replace(MADE, audio_s=0.0),
        replace(MADE, timings_s={}),
        replace(MADE, hardware={**describe_hardware(), "processor": "another"}),
        replace(MADE, engines=(json.dumps({"device": "cpu", "threads": 1}),)),
        replace(MADE, engines=(json.dumps({"device": "NVIDIA H100", "threads": 2}),)),
        replace(MADE, engines=("not JSON",)),
        replace(MADE, engines=()),
    ],
)
def test_runs_that_are_not_alike_do_not_count(store: Store, other: Session) -> None:
    record(store, "a-1", other)
    assert estimate_run(store, ["a-1"], "m", LARGE, ACTORS, 1, 640.0) == guess_run(LARGE, ACTORS, 1, 640.0)


def test_another_model_a_run_in_one_process_and_a_damaged_report_do_not_count(store: Store) -> None:
    record(store, "a-1", MADE, identity="another")
    record(store, "a-2", MADE, address="none")
    store.write("runs/a-3/report.json", b"{")
    estimate = estimate_run(store, ["a-4", "a-3", "a-2", "a-1"], "m", LARGE, ACTORS, 1, 640.0)
    assert estimate.earlier_runs == 0
    alone = replace(ACTORS, start="in_process")
    assert estimate_run(store, ["a-3", "a-2", "a-1"], "m", LARGE, alone, 1, 640.0).earlier_runs == 1


def test_compiling_the_kernels_counts_once(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    before = estimate_run(store, [], "m", LARGE, ACTORS, 1, 64.0)
    monkeypatch.setattr(estimating, "are_kernels_ready", lambda: False)
    after = estimate_run(store, [], "m", LARGE, ACTORS, 1, 64.0)
    assert after.compiles
    assert after.start_s == before.start_s + estimating._COMPILE_S
    assert not estimate_run(store, [], "m", LARGE, replace(ACTORS, start="joined"), 1, 64.0).compiles
    assert not estimate_run(store, [], "m", LARGE, ExpectedActors(1, 1, 1.0), 1, 64.0).compiles


def test_kernels_that_cannot_be_compiled_are_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MUSICGEN_COMPILE", "0")
    assert kernel_library.are_kernels_ready()
    monkeypatch.delenv("MUSICGEN_COMPILE")
    monkeypatch.setenv("CXX", "/nowhere/g++")
    assert kernel_library.are_kernels_ready()
