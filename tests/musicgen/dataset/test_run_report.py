"""Reports add up over sessions; status counts without reading rows."""

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from threading import Barrier

import pytest

import musicgen.dataset
from musicgen.dataset import paths
from musicgen.dataset.run_report import (
    RunReport,
    Session,
    describe_hardware,
    package_versions,
    read_report,
    write_report,
)
from musicgen.dataset.status import run_statuses
from musicgen.errors import RowError
from musicgen.run_plan import format_time
from musicgen.shard import PlannedModel

from .conftest import FRAME_RATE, Maker, plan_of

DRIVERS = 6


def report(start: str, made: int, run: str = "r1-1", **events: int) -> RunReport:
    session = Session(
        start,
        start + "1",
        made,
        1,
        10.0 * made,
        20.0,
        events=events,
        engines=("torch 2",),
        versions=package_versions(),
    )
    return RunReport(run, {"model": {"name": "embedded"}}, {"name": "embedded"}, (session,))


def test_sessions_add_up_in_the_order_of_time_each_once():
    early, late = report("2026-01-01T00:00:00", 3, replaced=1), report("2026-01-02T00:00:00", 5, replaced=2, repeated=1)
    both = late + early
    assert both + early == both
    assert [session.made for session in both.sessions] == [3, 5]
    totals = both.totals()
    assert (totals["made"], totals["failed"], totals["audio_s"], totals["audio_s_per_s"]) == (8, 2, 80.0, 2.0)
    assert totals["events"] == {"replaced": 3, "repeated": 1}
    with pytest.raises(ValueError, match="two runs"):
        early + report("2026", 1, "r2-1")


def test_a_resumed_run_keeps_what_was_reported(make: Maker):
    write_report(make.store, report("2026-01-01T00:00:00", 3))
    total = write_report(make.store, report("2026-01-02T00:00:00", 5))
    assert read_report(make.store, "r1-1") == total
    assert json.loads(make.store.read("runs/r1-1/report.json"))["totals"]["made"] == 8


def test_drivers_that_report_at_once_lose_no_session(make_anywhere: Maker):
    store = make_anywhere.store
    barrier = Barrier(DRIVERS)

    def work(number: int) -> None:
        barrier.wait()
        write_report(store, report(f"2026-01-01T00:00:{number:02d}", number))

    with ThreadPoolExecutor(DRIVERS) as pool:
        list(pool.map(work, range(DRIVERS)))
    total = read_report(store, "r1-1")
    assert [session.made for session in total.sessions] == list(range(DRIVERS))
    published = write_report(store, replace(report("2026", 0), sessions=(), published_at="2026-01-02"))
    assert published.sessions == total.sessions
    assert read_report(store, "r1-1") == published


def test_sessions_of_an_earlier_report_and_damaged_ones(make: Maker):
    earlier = report("2026-01-01T00:00:00", 3)
    document = earlier.to_json()
    document["later"] = 1
    document["sessions"][0]["later"] = 1  # fields that we do not know are passed over
    make.store.write("runs/r1-1/report.json", json.dumps(document).encode())
    for name, text in (("a", b""), ("b", b"[]"), ("c", b"{}"), ("d", b'{"started_at": "x", "made": 1}')):
        make.store.write(f"runs/r1-1/sessions/{name}.json", text)
    total = write_report(make.store, report("2026-01-02T00:00:00", 5))
    assert [session.made for session in total.sessions] == [3, 5]
    assert total.sessions[0] == earlier.sessions[0]


@pytest.mark.parametrize("text", [b"", b"{}", b"[1]", b'{"sessions": 3}'])
def test_a_damaged_report_does_not_stop_a_run(make: Maker, text: bytes):
    make.store.write("runs/r1-1/report.json", text)
    assert read_report(make.store, "r1-1") is None
    write_report(make.store, report("2026", 1))
    assert read_report(make.store, "r1-1") is not None


def test_the_machine_is_described_without_its_name():
    import platform

    assert describe_hardware()["cores"] >= 1
    assert describe_hardware()["memory_gb"] > 0.1
    assert platform.node() not in json.dumps(describe_hardware())
    assert package_versions()["numpy"]


def test_status_of_runs_in_every_state(make: Maker):
    make.shard("r1-1", 0, failing={0: RowError("generation", "no")})
    model = PlannedModel("embedded", None, "0" * 64, FRAME_RATE)
    plan = plan_of("r1-1", rows=7, shard_rows=[[3, 3], [1]], invalid=2, model=model)
    make.store.write("runs/r1-1/plan.json", plan.to_json().encode())
    make.store.write("runs/r1-2/plan.json", replace(plan, run="r1-2", rows=4).to_json().encode())
    make.shard("r0-1", 0)  # its plan is gone
    old, running, waiting = run_statuses(musicgen.dataset.open_dataset(make.store.uri))
    assert (old.run, old.planned, old.made, old.missing, old.finished) == ("r0-1", 3, 3, 0, True)
    assert (running.planned, running.made, running.failed, running.missing, running.invalid) == (7, 2, 1, 4, 2)
    assert (running.shards, running.committed, running.finished, running.audio_s) == (3, 1, False, 1.0)
    assert (waiting.planned, waiting.made, waiting.missing) == (4, 0, 4)
    assert running.to_json()["model"] == "embedded"
    assert [status.state for status in (old, running, waiting)] == ["complete", "unfinished", "unfinished"]


def test_a_run_with_a_living_driver_is_running(make: Maker):
    model = PlannedModel("embedded", None, "0" * 64, FRAME_RATE)
    plan = plan_of("r1-1", rows=7, shard_rows=[[3, 3], [1]], model=model)
    make.shard("r1-1", 0)
    make.store.write("runs/r1-1/plan.json", plan.to_json().encode())
    now = datetime.now(UTC)

    def write_token(name: str, **values: object) -> None:
        make.store.write(paths.driver_token("r1-1", name), json.dumps({"shards": [1], "writes": 3, **values}).encode())

    write_token("old", host="gone", started_at="x", written_at=format_time(now - timedelta(minutes=10)))
    write_token("earlier release")
    make.store.write(paths.driver_token("r1-1", "damaged"), b"{")
    dataset = musicgen.dataset.open_dataset(make.store.uri)
    (status,) = run_statuses(dataset)
    assert (status.state, status.drivers) == ("unfinished", ())
    write_token("b", host="two", started_at=format_time(now), written_at=format_time(now))
    write_token("a", host="one", started_at=format_time(now - timedelta(hours=1)), written_at=format_time(now))
    (status,) = run_statuses(dataset)
    assert (status.state, [driver.host for driver in status.drivers]) == ("running", ["one", "two"])
    assert [driver["host"] for driver in status.to_json()["drivers"]] == ["one", "two"]
    assert json.loads(json.dumps(status.to_json()))["state"] == "running"
