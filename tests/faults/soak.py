"""One long run with a fault a minute: every row is made, and memory, open files and temporary files stay flat."""

import json
import random
import signal
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import fsspec
import psutil

from tests.faults.bench import Bench
from tests.faults.harness import SILENCE_LIMIT_S, store_environment
from tests.faults.injectors import make_injector
from tests.faults.jobs import BUCKET, make_arguments
from tests.faults.judge import read_outcome
from tests.faults.scene import Injector, Scene
from tests.faults.schedule import KINDS, Schedule, draw_event
from tests.faults.servers import ACCESS_KEY, SECRET_KEY
from tests.faults.terminal import Terminal

_CLIP_S = 0.5
_SAMPLE_S = 10.0
_FAULT_EVERY_S = 60.0
_PATIENCE_S = 3600.0  # for the job's end after the last fault, on a busy machine
# The faults that one run has to outlive.
_KINDS = sorted(
    name
    for name in KINDS
    if name.startswith(("store_", "actor_", "node_", "raylet_", "prefect_")) or name == "driver_stop"
)


@dataclass(frozen=True)
class Sample:
    """What the run's processes hold at a moment. The actors' values are those of the largest one."""

    at_s: float
    driver_mb: float
    driver_files: float
    actor_mb: float
    actor_files: float
    temporary_files: float


_ALLOWED_GROWTH = {"driver_mb": 20, "driver_files": 10, "actor_mb": 30, "actor_files": 10, "temporary_files": 6}


def run_soak(work: Path, out: Path, seconds: float, seed: int) -> int:
    """Run it and print what grew; returns 1 if anything did, a row is missing, or the terminal was silent."""
    rng = random.Random(f"soak {seed}")
    rows = max(20, int(seconds * 2 / _CLIP_S * 0.7))  # with the faults the run takes about that long
    temporary = work / "tmp"
    (temporary / "ray").mkdir(parents=True)  # Ray notes its address there
    with Bench(work / "bench", _CLIP_S, {"TMPDIR": str(temporary)}) as bench:
        _write_rows(bench.store.endpoint, rows)
        schedule = Schedule("soak", "parquet", ())
        arguments = make_arguments(schedule, f"s3://{BUCKET}/sets/soak", name="soak", shard_rows=20)
        driver = bench.start_musicgen(arguments, work / "trials" / "soak", "run-0")
        samples, faults = _meet_faults(bench, driver, rng, seconds, temporary)
        bench.mend()
        with store_environment(bench):
            outcome = read_outcome(f"s3://{BUCKET}/sets/soak")
    troubles = [f"{name} grew: {text}" for name, text in _find_growth(samples).items()]
    if driver.process.returncode != 0 or len(outcome.made) != rows or outcome.failed or outcome.twice:
        troubles.append(
            f"exit {driver.process.returncode}, {len(outcome.made)} of {rows} rows made, {len(outcome.failed)} failed, "
            f"{len(outcome.twice)} twice"
        )
    troubles += [f"unsound: {fault}" for fault in outcome.unsound[:3]]
    if (silence_s := driver.longest_silence()[0]) > SILENCE_LIMIT_S:
        troubles.append(f"silent for {silence_s:.0f} s")
    record = {"faults": faults, "troubles": troubles, "samples": [asdict(sample) for sample in samples]}
    (out / "soak.json").write_text(json.dumps(record, indent=1))
    print(f"soak: {rows} rows, {len(faults)} faults, {len(samples)} samples; longest silence {silence_s:.0f} s")
    for name in _ALLOWED_GROWTH:
        first, last = _quarters(samples, name)
        print(f"  {name:<16} {first:8.1f} -> {last:8.1f}")
    print("\n".join(f"  {trouble}" for trouble in troubles) or "  flat, and every row is made")
    return int(bool(troubles))


def _write_rows(endpoint: str, count: int) -> None:
    store = fsspec.filesystem("s3", key=ACCESS_KEY, secret=SECRET_KEY, endpoint_url=endpoint)
    lines = [json.dumps({"id": f"row-{number}", "prompt": f"tune {number}"}) for number in range(count)]
    store.pipe_file(f"{BUCKET}/rows/soak.jsonl", "\n".join(lines).encode())


def _meet_faults(
    bench: Bench, driver: Terminal, rng: random.Random, seconds: float, temporary: Path
) -> tuple[list[Sample], list[str]]:
    """Make a fault a minute for `seconds`, and wait for the run's end. Returns samples and the faults' kinds."""
    began = time.monotonic()
    scene = Scene(bench, driver, lambda supersede: driver, rng)
    samples: list[Sample] = []
    faults: list[str] = []
    active: list[tuple[float, Injector]] = []
    next_sample = next_fault = began + _SAMPLE_S * 2
    while driver.runs:
        now = time.monotonic()
        for ends, injector in [item for item in active if now >= item[0]]:
            injector.end(scene)
            active.remove((ends, injector))
        if now >= next_fault:
            bench.mend()  # what an earlier fault has left behind, such as a dead Prefect
            next_fault += _FAULT_EVERY_S
            if now >= began + seconds:
                continue  # only the run's end is waited for
            event = draw_event(rng, rng.choice(_KINDS))
            injector = make_injector(event)
            if injector.begin(scene):
                active.append((now + event.seconds, injector))
                faults.append(event.kind)
                print(f"{now - began:6.0f} s: {event.kind} ({event.target}, {event.seconds:g} s)", flush=True)
        if now >= next_sample:
            samples.append(_take_sample(bench, driver, now - began, temporary))
            next_sample += _SAMPLE_S
        if now > began + seconds + _PATIENCE_S:
            driver.end(signal.SIGTERM)
        time.sleep(0.1)
    return samples, faults


def _take_sample(bench: Bench, driver: Terminal, at_s: float, temporary: Path) -> Sample:
    def measure(process: psutil.Process) -> tuple[float, float]:
        try:
            return process.memory_info().rss / 2**20, float(process.num_fds())
        except psutil.Error:
            return 0.0, 0.0

    driver_mb, driver_files = measure(psutil.Process(driver.process.pid)) if driver.runs else (0.0, 0.0)
    actors = [measure(actor) for actor in bench.ray.find_actors()] or [(0.0, 0.0)]
    left = sum(1 for _ in temporary.rglob("*"))
    return Sample(at_s, driver_mb, driver_files, max(mb for mb, _ in actors), max(n for _, n in actors), float(left))


def _quarters(samples: list[Sample], name: str) -> tuple[float, float]:
    """The medians of a value in the second and in the last quarter of the run."""
    values = [float(getattr(sample, name)) for sample in samples] or [0.0]
    quarter = max(1, len(values) // 4)
    return median(values[quarter : 2 * quarter] or values), median(values[-quarter:])


def _find_growth(samples: list[Sample]) -> dict[str, str]:
    grown = {}
    for name, allowed in _ALLOWED_GROWTH.items():
        first, last = _quarters(samples, name)
        if last - first > max(allowed, 0.1 * first):
            grown[name] = f"{first:.1f} -> {last:.1f}"
    return grown
