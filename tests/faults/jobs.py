"""The small job that meets the faults: its rows, melodies and settings."""

import hashlib
import io
import json
from collections.abc import Mapping

import fsspec
import numpy as np

from tests.faults.schedule import SHARDS, Layout, Schedule
from tests.faults.servers import ACCESS_KEY, SECRET_KEY

BUCKET = "chaos"
_SHARD_ROWS = 3
_GOOD_ROWS = SHARDS * _SHARD_ROWS - 1  # the broken melody is the last row that is planned
_MELODIES = 3
GOOD_IDS = tuple(f"row-{number}" for number in range(_GOOD_ROWS))
FAILED = {"broken": ("melody",), "missing": ("invalid",), "blank": ("invalid",), "negative": ("invalid",)}
EXTRA_ID = "extra"  # the row that only the superseding job has


def write_files(endpoint: str) -> None:
    """Create the bucket, and put melodies and manifests into it."""
    store = fsspec.filesystem("s3", key=ACCESS_KEY, secret=SECRET_KEY, endpoint_url=endpoint)
    if not store.exists(BUCKET):
        store.mkdir(BUCKET)
    for number in range(_MELODIES):
        store.pipe_file(f"{BUCKET}/melodies/{number}.wav", _make_melody(number))
    store.pipe_file(f"{BUCKET}/melodies/broken.wav", b"this is not audio")
    rows = _make_rows()
    poison = {"id": "poison", "prompt": "poison for its process"}
    manifests = {"plain": rows, "poison": [*rows[:10], poison, *rows[10:]]}
    for name, manifest in manifests.items():
        for suffix, extra in (("", []), ("-more", [{"id": EXTRA_ID, "prompt": "one more tune"}])):
            text = "\n".join(json.dumps(row) for row in [*extra, *manifest])
            store.pipe_file(f"{BUCKET}/rows/{name}{suffix}.jsonl", text.encode())


def hash_rows() -> str:
    """A short hash of the rows: an outcome of other rows cannot be compared with."""
    return hashlib.sha256(json.dumps(_make_rows()).encode()).hexdigest()[:8]


def _make_rows() -> list[Mapping[str, object]]:
    rows: list[dict[str, object]] = [
        {"id": f"row-{number}", "prompt": f"tune {number}"} for number in range(_GOOD_ROWS)
    ]
    for number in range(0, _GOOD_ROWS, 4):
        rows[number]["melody"] = f"s3://{BUCKET}/melodies/{number % _MELODIES}.wav"
    broken = {"id": "broken", "prompt": "a tune", "melody": f"s3://{BUCKET}/melodies/broken.wav"}
    missing = {"id": "missing", "prompt": "a tune", "melody": f"s3://{BUCKET}/melodies/none.wav"}
    return [*rows, broken, missing, {"id": "blank", "prompt": ""}, {"id": "negative", "prompt": "x", "duration_s": -1}]


def _make_melody(number: int) -> bytes:
    import soundfile

    file = io.BytesIO()
    sound = 0.3 * np.sin(np.arange(32_000) * (0.03 + 0.01 * number))
    soundfile.write(file, sound.astype(np.float32), 32_000, format="WAV")
    return file.getvalue()


def make_arguments(
    schedule: Schedule, output: str, supersede: bool = False, name: str = "", shard_rows: int = _SHARD_ROWS
) -> list[str]:
    """The command line of the schedule's job, or of the one that supersedes it. `name` is another manifest's."""
    name = name or ("poison" if schedule.poison else "plain") + ("-more" if supersede else "")
    settings = {
        "generation.duration_s": 1,
        "audio.layout": schedule.layout,
        "cluster.actors": f"{{min: {schedule.min_actors}, max: {schedule.max_actors}}}",
        "cluster.cpus_per_actor": 1,
        "cluster.gpus_per_actor": 0,
        "cluster.slots": 4,
        "cluster.shard_rows": shard_rows,
        "cluster.heartbeat_s": 1,
        "cluster.silent_after_s": 20,
        "cluster.start_timeout_s": 60,
        "output.supersede_unfinished": str(supersede).lower(),
    }
    arguments = ["run", "--manifest", f"s3://{BUCKET}/rows/{name}.jsonl", "--output", output, "--model", "embedded"]
    for key, value in settings.items():
        arguments += ["--set", f"{key}={value}"]
    return arguments


def calm_schedule(poison: bool, layout: Layout = "files") -> Schedule:
    """The job without any fault."""
    return Schedule("calm with a poison row" if poison else "calm", layout, (), poison)
