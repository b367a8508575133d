"""Reports add up over sessions; status counts without reading rows."""

import json
from dataclasses import replace

import pytest

import musicgen.dataset
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
from musicgen.shard import PlannedModel

from .conftest import FRAME_RATE, Maker, plan_of


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
