"""Waiting for a store: what is retried, for how long, and what is said meanwhile."""

import threading
import time

import pytest

from musicgen.errors import StoreDenied, StoreError, StoreFull, StoreUnavailable
from musicgen.storage import patience
from musicgen.storage.patience import wait_for_store
from musicgen.store_waits import find_longest_wait, track_wait


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "FIRST_PAUSE_S", 0.01)


class FailingCall:
    """Raises the errors one after the other, then returns "done"."""

    def __init__(self, *errors: Exception):
        self.errors = list(errors)
        self.calls = 0

    def __call__(self) -> str:
        self.calls += 1
        if self.errors:
            raise self.errors.pop(0)
        return "done"


def test_a_store_that_comes_back_is_waited_for():
    call, waits = FailingCall(StoreUnavailable("503"), StoreDenied("403"), StoreUnavailable("reset")), []
    assert wait_for_store(call, 60, lambda error, since: waits.append((str(error), since))) == "done"
    assert [reason for reason, _ in waits] == ["503", "403", "reset"]
    assert len({since for _, since in waits}) == 1  # all of one outage
    assert find_longest_wait() is None


@pytest.mark.parametrize("error", [StoreFull("no room"), StoreError("no such bucket"), FileNotFoundError("x")])
def test_an_error_that_time_does_not_cure_is_raised_at_once(error: Exception):
    call = FailingCall(error)
    with pytest.raises(type(error)):
        wait_for_store(call, 60)
    assert call.calls == 1


def test_patience_ends():
    call = FailingCall(*[StoreUnavailable("down")] * 1000)
    with pytest.raises(StoreUnavailable, match="down"):
        wait_for_store(call, 0.2)
    assert 1 < call.calls < 1000


def test_a_denied_call_has_a_shorter_patience():
    call = FailingCall(*[StoreDenied("403")] * 1000)
    with pytest.raises(StoreDenied):
        wait_for_store(call, 3600, denied_patience_s=0.2)
    assert call.calls > 1


def test_stop_ends_the_wait():
    stop = threading.Event()
    with pytest.raises(StoreUnavailable):
        wait_for_store(FailingCall(*[StoreUnavailable("down")] * 1000), 3600, lambda *_: stop.set(), stop)


def test_the_longest_wait_is_told_with_its_reason():
    assert find_longest_wait() is None
    now = time.time()
    with track_wait(now - 40) as set_reason, track_wait(now - 10, "reset"):
        assert "no answer yet" in str(find_longest_wait(30))
        set_reason("503 SlowDown")
        assert "503 SlowDown" in str(find_longest_wait(30))
        assert "waiting for the store since" in str(find_longest_wait(30))
        assert find_longest_wait(60) is None
    assert find_longest_wait() is None
