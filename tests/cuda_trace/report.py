"""Runs the trace in a process of its own, and prints what it found."""

import json
import subprocess
import sys
from collections.abc import Iterable, Mapping
from typing import Any

Cost = Mapping[str, Any]


def run_trace(subject: str, *sizes: str) -> list[dict[str, Any]]:
    """Trace a subject of `python -m tests.cuda_trace` (steps of these sizes): the fields of `EventCost` or `StepCost`.

    Raises `CalledProcessError`.
    """
    command = [sys.executable, "-m", "tests.cuda_trace", subject, *sizes]
    costs: list[dict[str, Any]] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    return costs


def format_steps(costs: Iterable[Cost]) -> str:
    """The costs as a table in Markdown."""
    lines = [
        "| model | slots | longest row | kernels | a layer | GB a step | least GB | ratio | share of the bound "
        "| audio-s/s, estimated (bound) |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {cost['size']} | {cost['slots']} | {cost['longest']} | {cost['kernels']:,} | {cost['kernels_per_layer']} "
        f"| {cost['bytes'] / 1e9:.1f} | {cost['least_bytes'] / 1e9:.1f} | {cost['bytes'] / cost['least_bytes']:.2f} "
        f"| {100 * cost['bound_share']:.0f} % | {cost['rate']:.0f} ({cost['rate'] / cost['bound_share']:.0f}) |"
        for cost in costs
    ]
    return "\n".join(lines)
