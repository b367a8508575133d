"""One measurement in a process of its own: `python -m tests.benchmarks.worker SPEC.json RESULT.json`."""

import json
import logging
import os
import sys
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

from tests.benchmarks.cases import Case
from tests.benchmarks.workload import Row, mixed, uniform

WARM_FRAMES = 6


def rows_of(case: Case, clips: int, manifest: Path | None) -> list[Row]:
    """The rows of a case, with the number of clips that this run settled on."""
    return mixed(clips, manifest) if case.mixed else uniform(clips, case.frames, manifest)


def _peer(spec: dict[str, Any]) -> dict[str, Any]:
    from tests.benchmarks.peer import Peer, PeerSetup

    peer = Peer(Path(spec["checkpoint"]), PeerSetup(**spec["setup"]))
    return _repeat(peer, spec)


def _ours(spec: dict[str, Any]) -> dict[str, Any]:
    from tests.benchmarks.ours import Ours

    longest = max(row["frames"] for row in spec["rows"])
    with Ours(Path(spec["checkpoint"]), spec["slots"], longest, spec.get("dtype", "auto")) as ours:
        return _repeat(ours, spec)


def _repeat(side: Any, spec: dict[str, Any]) -> dict[str, Any]:
    """Warm up with the case's own batch, then measure; the repeat of median time counts."""
    rows = [Row(**row) for row in spec["rows"]]
    side.generate([replace(row, frames=WARM_FRAMES) for row in rows[: spec.get("warm_clips", len(rows))]])
    timings = []
    for _ in range(spec["repeats"]):
        timings.append(side.generate(rows))
        print(f"{spec['kind']}: {timings[-1].wall_s:.2f} s, {timings[-1].rate:.3f} audio-s/s", flush=True)
    middle = median(timing.wall_s for timing in timings)
    chosen = min(timings, key=lambda timing: abs(timing.wall_s - middle))
    return {**chosen.to_json(), "wall_s_all": [round(timing.wall_s, 3) for timing in timings]}


def _tune(spec: dict[str, Any]) -> dict[str, Any]:
    from tests.benchmarks.peer_tuning import tune

    sizes: dict[str, Any] = {key: spec[key] for key in ("near", "far") if key in spec}
    if "batches" in spec:
        sizes["batches"] = tuple(spec["batches"])
    return tune(Path(spec["checkpoint"]), say=lambda text: print(text, flush=True), **sizes)


def _machine(spec: dict[str, Any]) -> dict[str, Any]:
    from tests.benchmarks.machine import measure

    rates = measure(
        tuple(spec["decoder_rows"]), spec["hidden"], spec["heads_out"], spec["dtype"], spec.get("seconds_each", 0.15)
    )
    return rates.to_json()


def _profile(spec: dict[str, Any]) -> dict[str, Any]:
    from tests.benchmarks.step_profile import profile

    return profile(Path(spec["checkpoint"]), [Row(**row) for row in spec["rows"]], spec.get("dtype", "auto"))


def _flow(spec: dict[str, Any]) -> dict[str, Any]:
    from tests.benchmarks.flow import run_flow

    return run_flow(Path(spec["checkpoint"]), [Row(**row) for row in spec["rows"]], spec["slots"], Path(spec["folder"]))


KINDS = {"peer": _peer, "ours": _ours, "tune": _tune, "machine": _machine, "profile": _profile, "flow": _flow}


def main() -> None:
    """Measure what the spec says and write the result."""
    os.environ.update(HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false", DO_NOT_TRACK="1", RAY_USAGE_STATS_ENABLED="0")
    logging.basicConfig(level=logging.WARNING)
    spec = json.loads(Path(sys.argv[1]).read_text())
    result = KINDS[spec["kind"]](spec)
    target = Path(sys.argv[2])
    partial = target.with_suffix(".partial")
    partial.write_text(json.dumps(result))
    partial.rename(target)


if __name__ == "__main__":
    main()
