"""The whole flow as a user runs it: `musicgen run` with one actor, into a folder; its rate is that of its report."""

import csv
import json
import resource
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.benchmarks.workload import Row


def run_flow(checkpoint: Path, rows: list[Row], slots: int, folder: Path) -> dict[str, Any]:
    """Make the rows with the command line. Audio-seconds per second from the first actor's readiness to the last
    commit.

    Raises RuntimeError if the command fails or a row is missing.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    manifest, output = folder / "manifest.csv", folder / "dataset"
    with manifest.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "prompt", "duration_s", "seed"])
        writer.writerows([str(number), row.prompt, row.audio_s, row.seed] for number, row in enumerate(rows))
    command = [
        str(Path(sys.executable).with_name("musicgen")),
        "run",
        "--manifest",
        str(manifest),
        "--output",
        str(output),
    ]
    command += ["--model", str(checkpoint), "--actors", "1", "--set", f"cluster.slots={slots}"]
    subprocess.run(command, check=True)
    (report,) = output.glob("runs/*/report.json")
    document = json.loads(report.read_text())
    totals, (session,) = document["totals"], document["sessions"]
    if totals["made"] != len(rows) or totals["failed"]:
        raise RuntimeError(
            f"the flow made {totals['made']} of {len(rows)} rows, {totals['failed']} failed; see {output}"
        )
    seconds = session["timings_s"]["generate"]
    return {
        "clips": len(rows),
        "audio_s": totals["audio_s"],
        "wall_s": seconds,
        "command_s": session["wall_s"],
        "rate": totals["audio_s"] / seconds,
        "engines": session["engines"],
        "peak_rss_mb": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024,
    }
