"""The rehearsal of `python -m tests.gpu` on a CPU, with no more libraries than a borrowed card has."""

import json
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_all_checks_and_the_measurement_can_be_rehearsed(tmp_path: Path) -> None:
    out = tmp_path / "gpu.json"
    command = [sys.executable, "-m", "tests.gpu.bare_environment", "--device", "cpu", "--tiny", "--out", str(out)]
    subprocess.run(command, check=True)
    report = json.loads(out.read_text())
    assert {check["result"] for check in report["checks"]} <= {"passed", "skipped"}
    skipped = {check["check"]: check["detail"] for check in report["checks"] if check["result"] == "skipped"}
    assert len(report["checks"]) == 6
    assert skipped == {"melody": "no librosa, which analyzes melodies"}, "librosa is hidden"
    assert report["speed"][0]["rate"] > 0
    assert report["speed"][0]["ratio"] > 0
