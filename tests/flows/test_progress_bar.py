"""What a command shows while it works, and that it is never silent for long."""

import io
import subprocess
import sys
import time
from collections.abc import Callable
from types import SimpleNamespace

import pytest

import flows.cli.progress_bar
from actors.messages import Progress
from flows.cli.progress_bar import ProgressBar
from musicgen.store_waits import track_wait


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a minute becomes a quarter of a second."""
    for name, seconds in {
        "_LINE_INTERVAL_S": 0.1,
        "_SILENCE_S": 0.25,
        "_WAIT_SHOWN_S": 0.2,
        "_START_S": 0.2,
        "_TICK_S": 0.02,
    }.items():
        monkeypatch.setattr(flows.cli.progress_bar, name, seconds)


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], list[str]]:
    """Waits until that many lines were printed since the last call.

    pytest's own capture can give a text twice that is written while it is read.
    """
    stderr, read = io.StringIO(), 0
    monkeypatch.setattr(flows.cli.progress_bar, "sys", SimpleNamespace(stderr=stderr))

    def wait_for_lines(count: int) -> list[str]:
        nonlocal read
        deadline = time.monotonic() + 30
        while (text := stderr.getvalue()[read:]).count("\n") < count:
            assert time.monotonic() < deadline, text
            time.sleep(0.02)
        whole = text[: text.rindex("\n") + 1] if count else text
        read += len(whole)
        return whole.splitlines()

    return wait_for_lines


def test_a_stage_that_takes_long_is_named_again_and_again(lines: Callable[[int], list[str]]) -> None:
    with ProgressBar() as bar, bar.stage("planning"):
        first, *others = lines(4)
        assert first.startswith("planning")  # the process may have taken long to start
        assert all(line.startswith("planning, for 0:0") and line.endswith("so far") for line in others)


def test_counts_that_stand_still_are_said_to(lines: Callable[[int], list[str]]) -> None:
    with ProgressBar() as bar, bar.stage("planning"):
        bar.count("manifest rows read")(12_000, None)
        while "nothing new for 0:0" not in (line := lines(1)[-1]):
            pass
        assert line.startswith("manifest rows read: 12,000; nothing new")


def test_what_holds_a_run_up_is_said_once_it_lasts(lines: Callable[[int], list[str]]) -> None:
    with ProgressBar() as bar, bar.stage("generating"):
        held_up = Progress(8, 2, waiting_for=("4 actors wanted, room for 1",))
        bar.update(held_up)
        assert lines(1)[0] == "0/8 clips, actors are loading the model", "it has only begun"
        while "; 4 actors wanted, room for 1" not in (line := lines(1)[-1]):
            bar.update(held_up)
        bar.update(Progress(8, 2, made=3))
        while line != "3/8 clips, actors are loading the model":
            line = lines(1)[-1]


def test_a_store_that_does_not_answer_this_process_is_named(lines: Callable[[int], list[str]]) -> None:
    since = time.time() - 60
    with ProgressBar() as bar, bar.stage("planning"), track_wait(since, "no answer from s3://bucket"):
        clock = time.strftime("%H:%M:%S", time.localtime(since))
        assert f"planning; waiting for the store since {clock} (no answer from s3://bucket)" in lines(1)


def test_passwords_are_left_out(lines: Callable[[int], list[str]]) -> None:
    with ProgressBar() as bar:
        bar.announce("at http://me:PASSWORD@host/api")
        assert lines(1) == ["at http://***@host/api"]


@pytest.mark.parametrize("verbose", [False, True])
def test_what_native_code_writes_is_hidden_for_a_while(verbose: bool) -> None:
    code = f"""
import os, sys
from flows.cli.quiet import hide_native_output
with hide_native_output({verbose}):
    os.write(2, b"native\\n")
    print("ours", file=sys.stderr)
os.write(2, b"later\\n")
print("and ours", file=sys.stderr)
"""
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert process.stderr.split("\n")[:-1] == ["native"] * verbose + ["ours", "later", "and ours"]
