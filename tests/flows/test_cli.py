"""How the process `musicgen` ends: its exit code is a contract, and what waits for the end is done."""

import subprocess
import sys
from importlib.metadata import version

import pytest

from tests.flows.conftest import Cli

_ENDING = """
import atexit, sys, threading, time
import flows.cli.main

def app():
    atexit.register(print, "at exit")
    threading.Thread(target=lambda: (time.sleep(0.3), print("waited for"))).start()
    threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
    print("said", end=" ")
    sys.exit({code})

flows.cli.main.app = app
flows.cli.main.main()
"""


@pytest.mark.parametrize(("code", "returned"), [("3", 3), ("None", 0), ("'no such thing'", 1)])
def test_an_ending_has_its_code_and_all_that_was_said(code: str, returned: int) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _ENDING.format(code=code)], capture_output=True, text=True, check=False, timeout=50
    )
    assert done.returncode == returned
    assert done.stdout == "said waited for\nat exit\n"
    assert done.stderr.strip() == ("no such thing" if returned == 1 else "")


def test_the_version_is_printed() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "musicgen", "--version"], capture_output=True, text=True, check=True, timeout=50
    )
    assert done.stdout == f"musicgen {version('musicgen-batch')}\n"


def test_a_plan_says_what_is_carried_and_what_is_dropped(cli: Cli) -> None:
    (cli.folder / "rows.csv").write_text("prompt,mood,steps\npiano,calm,3\npiano,wild,3\npiano,calm,3\nflute,calm,3\n")
    done = cli("plan", "--manifest", "rows.csv", "--output", "out", "--set", "generation.duration_s=1")
    lines = done.stdout.splitlines()
    assert (
        "duplicates             2   equal to an earlier row; 1 of them carry other values, which are dropped" in lines
    )
    assert "Columns that are carried into the index: mood, manifest_steps." in lines
    assert "A run would make 2 clips" in done.stdout


def test_control_characters_of_a_manifest_do_not_reach_the_terminal(cli, tmp_path) -> None:
    (tmp_path / "rows.csv").write_text(
        'prompt,melody,na\x1b]0;me\npiano,"/tmp/\x1b]0;title\x07\u202eevil.wav",x\nflute,,y\n'
    )
    plan = cli("plan", "--manifest", str(tmp_path / "rows.csv"), "--output", str(tmp_path / "out"))
    printed = plan.stdout + plan.stderr
    assert "\\x1b]0;title\\x07\\u202eevil.wav" in printed
    assert "na\\x1b]0;me" in printed
    assert not set(printed) & set("\x1b\x07\u202e")
