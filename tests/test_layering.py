"""The packages import in one direction: flows -> actors -> musicgen (contracts in pyproject.toml)."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_layers_hold():
    result = subprocess.run(
        [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr


def test_the_top_level_is_what_was_agreed():
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    fixed = {"pyproject.toml", "README.md", "flows", "musicgen", "actors", "configs", "infra", "tests"}
    also = {"Makefile", "constraints.txt", "LICENSE", "CONTRIBUTING.md", "docs", ".ci", ".gitignore"}
    assert {Path(name).parts[0] for name in listed} <= fixed | also
