"""How the process `musicgen` ends: its exit code is a contract, and what waits for the end is done."""

import subprocess
import sys
from importlib.metadata import version

import pytest

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
        [sys.executable, "-m", "flows.cli", "--version"], capture_output=True, text=True, check=True, timeout=50
    )
    assert done.stdout == f"musicgen {version('musicgen-batch')}\n"
