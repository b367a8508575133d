"""Every word of a status that the commands print is in docs/glossary.md, and every --help has an example."""

import inspect
import re
from pathlib import Path
from typing import get_args

import pytest
from typer.testing import CliRunner

from flows.cli import plan_report, run_job, status_command, verify_command
from flows.cli.main import app
from flows.progress import describe_progress
from flows.summary import Summary
from musicgen.dataset.status import RunStatus
from musicgen.errors import ErrorClass

GOLDEN = Path(__file__).parents[1] / "fixtures/golden"
PAGE = (Path(__file__).parents[2] / "docs/glossary.md").read_text()
TERMS = {term.strip() for line in PAGE.splitlines() if line.startswith("| ") for term in line.split("|")[1].split(",")}


def words_of(function: object, pattern: str) -> set[str]:
    """The words of a function's text literals that match."""
    return set(re.findall(pattern, inspect.getsource(function)))


def test_the_columns_and_states_of_status_are_explained() -> None:
    done = CliRunner().invoke(app, ["status", str(GOLDEN / "files")])
    assert done.exit_code == 0, done.output
    header = re.split(r"\s{2,}", done.stdout.splitlines()[0].strip())
    assert {"planned", "made", "missing"} <= set(header)
    assert set(header) - {"model"} <= TERMS | {"shards"}
    assert "shard" in TERMS
    states = words_of(RunStatus.state.fget, r'"([a-z ]+)"')
    assert {"running", "complete"} <= states <= TERMS


def test_the_words_of_plan_run_and_verify_are_explained() -> None:
    counts = words_of(plan_report._format_report, r'\("([a-z ]+)", report\[')
    assert {"new", "already made"} <= counts <= TERMS
    assert set(get_args(ErrorClass)) <= TERMS
    assert {"held back", "going on with", "invalid"} <= TERMS
    for word in ("going on with", "invalid"):
        assert word in inspect.getsource(run_job)
    fates = words_of(Summary.to_text, r'"([a-z ]+)": self\.')
    assert fates
    assert all(any(term in fate for term in TERMS) for fate in fates)
    for word in ("refused while planning", "given up", "missing", "no more actors were started on"):
        assert word in inspect.getsource(Summary)
        assert word in TERMS
    assert words_of(describe_progress, r"(to go|% done)") == {"to go", "% done"}
    assert {"to go", "40% done", "1.50x real time"} <= TERMS
    assert words_of(verify_command.print_verification, r"(OK|DAMAGED)") <= TERMS
    assert set(status_command._COUNTS) <= TERMS
    assert {"actor-hours", "GPU-hours", "cost", "paused", "stopped"} <= TERMS


@pytest.mark.parametrize("command", [command.name for command in app.registered_commands])
def test_every_help_has_an_example(command: str) -> None:
    shown = CliRunner().invoke(app, [command, "--help"])
    assert shown.exit_code == 0
    assert f"For example: musicgen {command}" in " ".join(shown.output.split())
