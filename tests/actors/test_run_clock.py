"""The clock of a run."""

from actors.run_clock import RunClock


def test_time_in_which_the_driver_stood_still_does_not_count():
    times = iter([100.0, 100.25, 100.75, 700.75, 701.0])
    clock = RunClock(lambda: next(times))
    assert [clock.tick() for _ in range(4)] == [0.25, 0.75, 1.75, 2.0]
