"""Measurements run in processes of their own: memory peaks are theirs alone, and a crash or a hang costs one case."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.benchmarks import load

ROOT = Path(__file__).parents[2]
TIMEOUT_S = 1500.0


class Refused(Exception):
    """Other work loads the machine: no figure is quoted."""


class Broken(Exception):
    """The process of a measurement failed; the message says how."""


@dataclass(frozen=True)
class Runner:
    """Starts workers and watches the machine meanwhile."""

    folder: Path  # for logs and job files
    allow_load: bool = False
    patience_s: float = 60.0
    quiet_cores: float = load.QUIET_CORES

    def run(self, kind: str, timeout_s: float = TIMEOUT_S, **spec: Any) -> dict[str, Any]:
        """Run `tests.benchmarks.worker` of this kind. The result says under `others_cores` what others used meanwhile.

        Raises `Refused` if that is too much (unless `allow_load`: then `loaded` is true), `Broken` if it fails.
        """
        before = load.others_cores() if self.allow_load else load.wait_for_quiet(self.patience_s, self.quiet_cores)
        if before > self.quiet_cores and not self.allow_load:
            raise Refused(
                f"other work uses {before:.2f} cores before it began ({load.busiest()}); stop it, or --allow-load"
            )
        with load.LoadWatch() as watch:
            result = self._run(kind, spec, timeout_s)
        loaded = watch.mean_cores > self.quiet_cores or before > self.quiet_cores
        if loaded and not self.allow_load:
            raise Refused(
                f"other work used {watch.mean_cores:.2f} cores on average meanwhile; stop it, or --allow-load"
            )
        return {
            **result,
            "others_cores": round(watch.mean_cores, 3),
            "others_peak_cores": round(watch.peak_cores, 3),
            "loaded": loaded,
        }

    def _run(self, kind: str, spec: dict[str, Any], timeout_s: float) -> dict[str, Any]:
        self.folder.mkdir(parents=True, exist_ok=True)
        stem = self.folder / f"{kind}-{time.strftime('%H%M%S')}"
        wanted, found, log = stem.with_suffix(".spec.json"), stem.with_suffix(".result.json"), stem.with_suffix(".log")
        found.unlink(missing_ok=True)
        wanted.write_text(json.dumps({"kind": kind, **spec}, default=str))
        with log.open("wb") as sink:
            worker = subprocess.Popen(
                [sys.executable, "-m", "tests.benchmarks.worker", str(wanted), str(found)],
                cwd=ROOT,
                stdout=sink,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # so that what it starts can be ended with it
            )
            try:
                code = worker.wait(timeout_s)
            except subprocess.TimeoutExpired:
                raise Broken(f"{kind}: not done within {timeout_s:.0f} s; see {log}") from None
            finally:
                _end(worker)
        if code or not found.exists():
            tail = log.read_text(errors="replace").strip().splitlines()[-1:] or ["no output"]
            raise Broken(f"{kind}: exit code {code}: {tail[0]} (see {log})")
        return json.loads(found.read_text())


def _end(worker: subprocess.Popen) -> None:
    """End a worker that is still running, and everything it started: politely, then not."""
    for sign in (signal.SIGTERM, signal.SIGKILL):
        if worker.poll() is not None:
            return
        with suppress(ProcessLookupError):
            os.killpg(worker.pid, sign)
        with suppress(subprocess.TimeoutExpired):
            worker.wait(30)
