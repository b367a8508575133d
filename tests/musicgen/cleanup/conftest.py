"""Datasets of planned runs whose clips all sound different, and a search for what is left of one."""

import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from musicgen.clip import Clip
from musicgen.dataset.card import publish_card
from musicgen.dataset.reader import Dataset, open_dataset
from musicgen.dataset.writer import ShardWriter
from musicgen.errors import RowError
from musicgen.job import Job
from musicgen.job_sections import AudioSettings
from musicgen.plan import Plan, PlanOutcome, make_plan, pending_shards, read_shard
from musicgen.storage import Store, open_store
from tests.fixtures.planning import PlannedCheckpoint, publish

ROWS = "prompt,id,note\nsecret harp,anna,mine\nquiet oboe,bert,his\nlow drum,carl,ours\nhigh bell,dora,hers\n"
GROWN = ROWS + "late flute,emil,new\n"


@dataclass
class Jobs:
    """Plans jobs of one dataset, and makes what they have planned."""

    folder: Path
    output: str
    layout: str = "files"

    @property
    def store(self) -> Store:
        return open_store(self.output)

    @property
    def dataset(self) -> Dataset:
        return open_dataset(self.output)

    def plan(self, rows: str = ROWS, store: Store | None = None, **options: object) -> PlanOutcome:
        """Plan the job of these rows; two rows are a shard."""
        manifest = self.folder / f"{len(rows)}.csv"
        manifest.write_text(rows)
        settings = ["cluster.shard_rows=2", f"audio.layout={self.layout}", "generation.duration_s=0.5"]
        job = Job.load(None, settings, manifest=str(manifest), output=self.output)
        return make_plan(job, PlannedCheckpoint(), store or self.store, **options)  # type: ignore[arg-type]

    def drive(self, plan: Plan | None, failing: tuple[str, ...] = ()) -> None:
        """Make the run's pending shards and publish it, as its driver would; rows with these prompts fail."""
        assert plan is not None
        for shard in pending_shards(self.store, plan):
            with self.writer(plan, shard, f"a{shard}") as writer:
                add_clips(writer, failing)
                writer.commit()
        publish_card(self.dataset)
        publish(self.store, plan)

    def writer(self, plan: Plan, shard: int, attempt: str) -> ShardWriter:
        """A writer of one attempt at a shard."""
        rows, audio = read_shard(self.store, plan, shard), AudioSettings(**plan.job["audio"])
        return ShardWriter(self.store, plan.run, shard, attempt, rows, audio, plan.model, "{}")


def add_clips(writer: ShardWriter, failing: tuple[str, ...] = (), seed: int = 0) -> None:
    """Add half a second of a noise of its own for each row, as a function of its key."""
    for position, (key, request) in enumerate(zip(writer._rows.keys, writer._rows.requests, strict=True)):
        if request.prompt in failing:
            writer.fail(position, RowError("generation", f"{request.prompt}: it did not work"), attempts=3)
        else:
            rng = np.random.default_rng([seed, int(key[:8], 16)])
            sound = rng.uniform(-0.5, 0.5, (1, 16000)).astype(np.float32)
            writer.add(position, Clip(request, np.zeros((4, 25), np.int16), sound, 32000))


def find_remains(store: Store, *needles: bytes) -> Iterator[str]:
    """Yield the objects that hold one of these byte strings, as they stand or in the values of a Parquet file."""
    for info in store.list():
        content = store.read(info.path)
        values = content
        if info.path.endswith(".parquet"):
            table = pq.read_table(io.BytesIO(content))
            values += b"".join(_flatten(table.to_pylist())) + str(table.schema.metadata).encode()
        if any(needle in content or needle in values for needle in needles):
            yield info.path


def _flatten(value: object) -> Iterator[bytes]:
    if isinstance(value, dict):
        yield from _flatten(list(value.values()))
    elif isinstance(value, list):
        for item in value:
            yield from _flatten(item)
    else:
        yield (value if isinstance(value, bytes) else str(value).encode()) + b"\n"


@pytest.fixture(params=["files", "parquet", "webdataset"])
def jobs(request: pytest.FixtureRequest, tmp_path: Path) -> Jobs:
    """Jobs of a dataset in a folder, in each layout."""
    return Jobs(tmp_path, str(tmp_path / "out"), request.param)


@pytest.fixture
def file_jobs(tmp_path: Path) -> Jobs:
    """Jobs of a dataset in a folder, with a file for each clip."""
    return Jobs(tmp_path, str(tmp_path / "out"))
