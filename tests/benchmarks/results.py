"""`bench.json`: a list of results, one a case; a run of some cases replaces those and keeps the others."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from tests.benchmarks.cases import ALL

Result = dict[str, Any]


def read(path: Path) -> list[Result]:
    """What is there; nothing if the file is missing."""
    return json.loads(path.read_text()) if path.exists() else []


def merge(path: Path, result: Result) -> list[Result]:
    """Put a result in place of the one of the same case, written at once: an interrupted run keeps what it has."""
    results = [*(old for old in read(path) if old["case"] != result["case"]), result]
    results.sort(key=lambda entry: ALL.index(entry["case"]) if entry["case"] in ALL else len(ALL))
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(results, indent=1) + "\n")
    partial.rename(path)
    return results


def table(results: Iterable[Result]) -> str:
    """The results for a terminal (Markdown as well)."""
    head = (
        "case",
        "clips",
        "ours audio-s/s",
        "peer audio-s/s",
        "ratio",
        "goal",
        "ours ms/step",
        "peer ms/step",
        "step ratio",
        "bound share",
        "ours MB",
        "peer MB",
        "",
    )
    rows: list[Sequence[str]] = [head, ["---"] * len(head)]
    for result in results:
        if result.get("steps"):
            continue  # counts, which have a table of their own
        numbers = [
            result.get(key)
            for key in ("clips", "ours", "peer", "ratio", "goal", "ours_ms_step", "peer_ms_step", "step_ratio")
        ]
        share, ours_mb, peer_mb = result.get("bound_share"), result.get("peak_rss_mb"), result.get("peer_peak_rss_mb")
        note = result.get("refused") or ("LOADED: other work ran" if result.get("loaded") else "")
        rows.append([result["case"], *map(_text, numbers), _percent(share), _text(ours_mb), _text(peer_mb), note])
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def operations_table(rows: Iterable[dict[str, Any]]) -> str:
    """Bound, actual and share per operation."""
    lines = ["| operation | bound ms/step | actual ms/step | share |", "| --- | --- | --- | --- |"]
    lines += [
        f"| {row['operation']} | {row['bound_ms']:.3f} | {row['actual_ms']:.3f} | {_percent(row['share'])} |"
        for row in rows
    ]
    return "\n".join(lines)


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.0f}" if value >= 1000 else f"{value:.3g}"
    return "" if value is None else str(value)


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.0f} %"
