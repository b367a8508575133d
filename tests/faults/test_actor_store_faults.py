"""What an actor does while its output store is out of order: it waits with what it has made, and blames no row."""

import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from actors.messages import ShardAttempt, ShardReport
from musicgen.audio import encode_audio
from musicgen.clip import Clip
from musicgen.dataset.verification import verify_dataset
from musicgen.errors import StoreDenied, StoreUnavailable
from musicgen.request import Request
from musicgen.storage import patience
from tests.actors.in_process import ActorInProcess, make_noise
from tests.faults.fault import Fault
from tests.faults.proxy import FaultProxy

ROWS = 20
slow = partial(pytest.param, marks=pytest.mark.slow)
BACKLOG = 8  # slots and writers of the actor


@pytest.fixture(autouse=True, scope="module")
def imported() -> None:
    """What the first clip of a process imports, so that no test waits for it."""
    encode_audio(make_noise(Request(prompt="", seed=0)).audio, 32000, "flac", None)


def wait_until(condition: Callable[[], object], timeout_s: float = 60.0) -> None:
    """Wait until the condition comes true."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true"
        time.sleep(0.01)


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorter times, in the same proportions; a request still has longer than a loaded machine lets it wait."""
    monkeypatch.setenv("MUSICGEN_STORE_TIMEOUT_S", "2")
    monkeypatch.setattr(patience, "FIRST_PAUSE_S", 0.1)
    monkeypatch.setattr(patience, "LONGEST_PAUSE_S", 0.5)
    monkeypatch.setattr("actors.generator._SLOW_STORE_S", 0.3)


@pytest.fixture
def patient(impatient: None, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """A function that gives requests their usual deadlines back, for looking at the store once the fault is over."""
    return partial(monkeypatch.delenv, "MUSICGEN_STORE_TIMEOUT_S")


class CountingActor(ActorInProcess):
    """An actor that counts how often each prompt was generated."""

    def __init__(self, folder: Path, output: str, **sections):
        self.generated: Counter[str] = Counter()

        def make(request: Request) -> Clip:
            self.generated[request.prompt] += 1
            return make_noise(request)

        super().__init__(folder, ROWS, output, make, **sections)


@pytest.fixture
def actor(tmp_path: Path, s3, proxy: FaultProxy) -> CountingActor:
    """An actor whose output lies behind the proxy."""
    return CountingActor(tmp_path, s3.uri)


def assert_complete(actor: CountingActor, report: ShardReport) -> None:
    """Every row made, once, and no row failed."""
    assert (report.won, report.made, report.failed) == (True, ROWS, 0)
    assert set(actor.generated.values()) == {1}
    checked = verify_dataset(actor.dataset(), deep=True)
    assert checked.sound, checked.faults
    assert (checked.rows, checked.failed, checked.orphans) == (ROWS, 0, 0)


@pytest.mark.parametrize("layout", ["files", slow("parquet"), slow("webdataset")])
def test_an_outage_costs_time_and_no_clip(tmp_path, s3, proxy, layout, patient):
    actor = CountingActor(tmp_path, s3.uri, audio={"layout": layout})
    actor.engine.may_step.clear()
    with actor.making() as making:
        wait_until(lambda: actor.engine.held)
        proxy.stop_listening()
        try:
            actor.engine.may_step.set()
            # Several times as long as a request may take, while finished clips wait with their threads.
            wait_until(lambda: actor.generator.heartbeat().waiting_s > 4.5)
            before = actor.generator.heartbeat()
            generated = sum(actor.generated.values())
        finally:
            proxy.listen()
        making.result(60)
    patient()
    assert before.waiting_for.startswith("waiting for the store since ")
    assert before.stalled_s == 0
    assert generated == (ROWS if layout != "files" else BACKLOG + 1)  # the one more waits for room in the backlog
    assert actor.generator.heartbeat().waiting_for == ""
    assert_complete(actor, making.result())


@pytest.mark.parametrize(
    "fault",
    [
        Fault("swallow", "PUT .*/audio/", count=1, skip=3),
        Fault("swallow", "PUT .*/index/", count=1),
        slow(Fault("swallow", "/index/|/manifest/|dataset.json", count=3)),
        slow(Fault("drop_reply", "PUT .*/index/", count=1)),
        slow(Fault("hang_reply", "PUT .*/index/", count=1)),
        slow(Fault("status", seconds=4.0)),
        Fault("status", "PUT .*/index/", count=4, status=403, code="ExpiredToken"),
        slow(Fault("reset", "PUT ", count=10)),
    ],
    ids=lambda fault: f"{fault.mode}-{fault.pattern}-{fault.status}",
)
def test_calls_that_fail_or_are_not_answered_for_a_while_are_repeated(actor, proxy, fault, patient):
    proxy.add(fault)
    with actor.making() as making:
        making.result(60)
    patient()
    assert fault.hits
    assert_complete(actor, making.result())


def test_after_the_jobs_patience_the_store_is_blamed_and_no_row(tmp_path, s3, proxy, patient):
    actor = CountingActor(tmp_path, s3.uri, cluster={"store_patience_s": 1.0})
    fault = proxy.add(Fault("status", "PUT .*/audio/"))
    with actor.making() as making, pytest.raises(StoreUnavailable, match="/audio/"):
        making.result(60)
    assert fault.hits
    proxy.clear()
    patient()
    assert not list(actor.store.list("index"))
    assert not list(actor.store.list("failures"))
    report = actor.generator.make_shard(ShardAttempt(0, number=1))
    assert (report.won, report.made, report.failed) == (True, ROWS, 0)


def test_rows_of_an_attempt_that_failed_are_not_made(tmp_path, s3, proxy, patient):
    actor = CountingActor(tmp_path, s3.uri, cluster={"store_patience_s": 0.5})
    proxy.add(Fault("status", "PUT .*/audio/", status=403, code="AccessDenied"))
    with actor.making() as making, pytest.raises((StoreDenied, StoreUnavailable)):
        making.result(60)
    patient()
    wait_until(lambda: not actor.engine.held)
    assert not actor.generator._loop._queue  # else they would be made for nobody
    assert sum(actor.generated.values()) < ROWS
    assert actor.generator.heartbeat().stalled_s == 0
    assert not list(actor.store.list("index"))
