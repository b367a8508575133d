"""python -m tests.faults --seeds 1..100: runs the schedules of these seeds and prints what went wrong.

Each seed's result is kept in out/chaos; one that is there is not run again, unless with --fresh.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import traceback
from pathlib import Path

from tests.faults.bench import Bench
from tests.faults.harness import Trial
from tests.faults.jobs import calm_schedule, hash_rows
from tests.faults.judge import Outcome
from tests.faults.schedule import Schedule, draw_schedule
from tests.faults.small_disk import SmallDisk, enter_namespace
from tests.faults.soak import run_soak
from tests.faults.table import Record, describe, make_table, to_record, write_record

_OUT = Path("out/chaos")


def _parse_seeds(text: str) -> range:
    first, _, last = text.partition("..")
    return range(int(first), int(last or first) + 1)


def main() -> int:
    """Run the seeds that have no result yet; returns 1 if any result shows trouble."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=_parse_seeds, default=range(1, 101), metavar="A..B")
    parser.add_argument("--fresh", action="store_true", help="run again what has a result")
    parser.add_argument("--soak", type=float, metavar="S", help="one run of so many seconds, with a fault a minute")
    parser.add_argument("--out", type=Path, default=_OUT)
    arguments = parser.parse_args()
    out: Path = arguments.out
    out.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # all servers end with this process
    enter_namespace()
    work = Path(tempfile.mkdtemp(prefix="mgchaos-"))
    try:
        if arguments.soak:
            return run_soak(work, out, arguments.soak, seed=arguments.seeds[0])
        return _run_seeds(work, out, arguments.seeds, arguments.fresh)
    finally:
        _keep_logs(work, out)
        shutil.rmtree(work, ignore_errors=True)


def _keep_logs(work: Path, out: Path) -> None:
    if (logs := work / "trials").exists():
        shutil.copytree(logs, out / "logs", ignore=shutil.ignore_patterns("disk"), dirs_exist_ok=True)


def _run_seeds(work: Path, out: Path, seeds: range, fresh: bool) -> int:
    files = {seed: out / f"seed-{seed:04d}.json" for seed in seeds}
    missing = [seed for seed, file in files.items() if fresh or not file.exists()]
    commit = _find_commit()
    while missing:  # with new servers where the harness has failed
        with Bench(work) as bench:
            while missing:
                seed = missing.pop(0)
                record = {**_run_seed(bench, out, seed), "commit": commit}
                write_record(files[seed], record)
                _keep_logs(work, out)
                print(describe(record), flush=True)
                if "harness" in record:
                    break
    records: list[Record] = [json.loads(file.read_text()) for file in files.values()]
    print(f"\n{make_table(records)}")
    return int(any(record.get("troubles") for record in records))


def _find_commit() -> str:
    """The commit that is tried, with a plus if files differ from it; empty outside of a repository."""
    command = ["git", "describe", "--always", "--dirty=+", "--exclude=*"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


def _run_seed(bench: Bench, out: Path, seed: int) -> Record:
    schedule = draw_schedule(seed)
    if schedule.on_small_disk and (reason := SmallDisk.reason_to_skip()):
        return {"name": schedule.name, "skipped": reason, "troubles": []}
    name = f"seed-{seed:04d}"
    try:
        calm = _find_calm(bench, out, schedule)
        result, _ = Trial(bench, schedule, name).run(calm)
    except Exception as error:
        trouble = f"the harness failed: {type(error).__name__}: {error}"
        return {"name": schedule.name, "harness": traceback.format_exc(), "troubles": [trouble]}
    return to_record(result)


def _find_calm(bench: Bench, out: Path, schedule: Schedule) -> Outcome:
    """The outcome of the job without faults, which is made once and kept."""
    kept = out / f"calm{'-poison' if schedule.poison else ''}-{hash_rows()}.json"
    if not kept.exists():
        result, outcome = Trial(bench, calm_schedule(schedule.poison), kept.stem).run(None)
        if not result.complete or outcome.unsound or outcome.twice:
            raise RuntimeError(f"the calm run is not calm: {result.troubles} {outcome.unsound}")
        write_record(kept, outcome.to_json())
        print(
            f"{kept.stem}: {len(outcome.made)} made, {len(outcome.failed)} failed, {result.seconds:.0f} s", flush=True
        )
    return Outcome.from_json(json.loads(kept.read_text()))


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    sys.exit(main())
