"""The Triton kernels compiled for GPUs that are not at hand: nothing is spilled, and loads are wide."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.gpu.compile_kernels import ARCHITECTURES

pytest.importorskip("triton", reason="no triton")


def test_kernels_compile_for_each_architecture_without_spills(tmp_path: Path) -> None:
    """In a process of its own: in this one Triton interprets."""
    environment = {**os.environ, "TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path)}
    command = [sys.executable, "-m", "tests.gpu.compile_kernels"]
    reports = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, env=environment).stdout)
    assert {report["architecture"] for report in reports} == set(ARCHITECTURES)
    assert len(reports) == 10 * len(ARCHITECTURES)
    for report in reports:
        assert report["spilled_bytes"] == 0, report
        assert report["registers"] <= 128, report
        if report["kernel"].startswith("attend_kernel"):
            assert report["wide_loads"] >= 8, report
