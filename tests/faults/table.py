"""The results of schedules as files and as a table."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import median

from tests.faults.harness import Result

Record = dict[str, object]


def to_record(result: Result) -> Record:
    """Plain values of a result, with its troubles."""
    return {**asdict(result), "troubles": result.troubles}


def write_record(path: Path, record: Record) -> None:
    """Keep a result; whoever reads it sees all of it or nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(record, indent=1))
    partial.replace(path)


def describe(record: Record) -> str:
    """One line for a result."""
    if reason := record.get("skipped"):
        return f"{record['name']}: skipped, {reason}"
    if "harness" in record:
        return f"{record['name']}: {record['troubles'][0]}"
    schedule, hits = record["schedule"], record["hits"]
    assert isinstance(schedule, dict)
    assert isinstance(hits, dict)
    faults = ", ".join(f"{kind} x{count}" for kind, count in hits.items())
    troubles = record["troubles"]
    assert isinstance(troubles, list)
    times = f"recovery {record['recovery_s']:.0f} s, {record['seconds']:.0f} s"
    numbers = f"silence {record['silence_s']:.0f} s, load {record['load']:.0f}, {times}"
    return f"{schedule['name']} ({schedule['layout']}; {faults}): {'; '.join(troubles) or 'ok'} [{numbers}]"


def make_table(records: Sequence[Record]) -> str:
    """Faults by kind, rows by what became of them, silence and recovery."""
    ran = [record for record in records if "verdict" in record]
    schedules: Counter[str] = Counter()
    hits: Counter[str] = Counter()
    troubled: Counter[str] = Counter()
    for record in ran:
        hit = record["hits"]
        assert isinstance(hit, dict)
        for kind, count in hit.items():
            schedules[kind] += 1
            hits[kind] += count
            troubled[kind] += bool(record["troubles"])
    lines = [f"{'fault':<20} {'schedules':>9} {'hits':>6} {'with trouble':>13}"]
    lines += [f"{kind:<20} {schedules[kind]:>9} {hits[kind]:>6} {troubled[kind]:>13}" for kind in sorted(schedules)]
    verdicts = [record["verdict"] for record in ran]
    totals: Counter[str] = Counter({"planned": 0, "made": 0, "failed": 0})
    for verdict in verdicts:
        assert isinstance(verdict, dict)
        totals.update(verdict["counts"])
        totals.update({name: len(verdict[name]) for name in ("lost", "twice", "blamed", "changed", "unsound")})
    lines += ["", "rows: " + ", ".join(f"{count} {name}" for name, count in totals.items())]
    if ran:
        recovery = [float(str(record["recovery_s"])) for record in ran]
        silence = max(float(str(record["silence_s"])) for record in ran)
        times = f"median {median(recovery):.0f} s, max {max(recovery):.0f} s"
        lines.append(f"longest silence {silence:.0f} s; recovery {times}")
    bad = [record for record in records if record["troubles"]]
    skipped = sum("skipped" in record for record in records)
    lines.append(f"{len(records) - skipped} schedules, {len(bad)} with trouble, {skipped} skipped")
    lines += [f"  {describe(record)}" for record in records if record.get("troubles") or "skipped" in record]
    return "\n".join(lines)
