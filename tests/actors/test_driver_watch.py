"""What a driver makes of the tokens of other drivers."""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime

import pytest

from actors.driver_watch import DriverWatch
from musicgen.dataset import paths
from musicgen.dataset.driver_token import DriverToken
from musicgen.process_name import has_ended, name_this_process
from musicgen.run_plan import format_time
from musicgen.storage import Store, open_store

RUN = "r0-1"


@pytest.fixture
def store(tmp_path) -> Store:
    """The dataset of a run, with the token of a driver that has claimed shard 0."""
    return open_store(str(tmp_path / "out"))


@pytest.fixture
def watch(store: Store) -> Iterator[Callable[[str], DriverWatch]]:
    """Starts the watch of a driver beside one whose process has this name."""
    started: list[DriverWatch] = []

    def start(process: str) -> DriverWatch:
        token = {"shards": [0], "writes": 1, "process": process}
        store.write(paths.driver_token(RUN, "another"), json.dumps(token).encode())
        watch = DriverWatch(store, RUN, "this")
        watch.propose([], [0, 1])
        watch.start()
        started.append(watch)
        return watch

    yield start
    for one in started:
        one.close()


def name_ended_process() -> str:
    code = "from musicgen.process_name import name_this_process; print(name_this_process())"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def wait_until(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 30
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.05)
    return condition()


def test_shards_of_a_driver_that_was_killed_on_this_machine_are_taken_at_once(watch):
    one = watch(name_ended_process())
    assert wait_until(lambda: one.may_take(0))
    assert one.claimed_elsewhere == frozenset()


def test_a_look_at_the_other_drivers_while_a_shard_is_asked_for_ends_no_run(store: Store, monkeypatch):
    values = iter([frozenset(), None, None])
    watch = DriverWatch(store, RUN, "this")
    monkeypatch.setattr(DriverWatch, "_may_take", property(lambda _: next(values)), raising=False)
    assert [watch.may_take(0), watch.may_take(0)] == [False, True]


def test_a_driver_that_was_killed_on_this_machine_is_not_at_work_although_it_was_heard_of():
    now = datetime.now(UTC)
    ended, living = (DriverToken(written_at=format_time(now), process=name) for name in (name_ended_process(), ""))
    assert not ended.is_alive(now)
    assert living.is_alive(now)


@pytest.mark.parametrize(
    "process", ["", "another-machine/1/2", name_this_process()], ids=["none", "elsewhere", "living"]
)
def test_shards_of_a_driver_that_lives_or_may_live_are_left_to_it(watch, process: str):
    one = watch(process)
    assert wait_until(lambda: one.may_take(1))
    assert not one.may_take(0)
    assert one.claimed_elsewhere == {0}


def test_a_process_that_has_the_number_of_one_that_has_ended_is_another():
    machine, pid, began = name_this_process().split("/")
    assert not has_ended(f"{machine}/{pid}/{began}")
    assert has_ended(f"{machine}/{pid}/{int(began) - 1}")


def test_a_process_that_proc_hides_has_not_ended(monkeypatch: pytest.MonkeyPatch):
    """As of another user where /proc is mounted with `hidepid`."""
    machine, pid, _ = name_this_process().split("/")
    ended = name_ended_process()
    monkeypatch.setattr("musicgen.process_name._read_start", lambda pid: None)
    assert not has_ended(f"{machine}/{pid}/1")
    assert has_ended(ended)
