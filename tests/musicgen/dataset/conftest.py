"""Makes small but real clips, shards and datasets."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from musicgen.clip import Clip
from musicgen.dataset import paths
from musicgen.dataset.info import DatasetInfo, write_dataset_info
from musicgen.dataset.writer import ShardWriter
from musicgen.job_sections import AudioSettings
from musicgen.request import Request
from musicgen.run_plan import Plan, PlanPart
from musicgen.shard import PlannedModel, ShardRows
from musicgen.storage import Store, open_store

RATE, FRAME_RATE = 32000, 50.0
MODEL = PlannedModel("musicgen-small", "abc123", "0" * 64, FRAME_RATE)
CARRIED = pa.schema([("caption_id", pa.int64()), ("tags", pa.list_(pa.string())), ("manifest_model", pa.string())])


def clip_of(request: Request, channels: int = 1) -> Clip:
    """A tone of the request's length whose pitch is its seed's, with a little of its own noise."""
    frames = request.frames(FRAME_RATE)
    rng = np.random.default_rng(request.seed)
    time = np.arange(int(frames * RATE / FRAME_RATE)) / RATE
    tone = 0.4 * np.sin(2 * np.pi * (200 + 10 * (request.seed or 0)) * time)
    audio = (tone + rng.normal(0, 0.01, (channels, time.size))).astype(np.float32)
    return Clip(request, rng.integers(0, 2048, (4, frames)).astype(np.int16), audio, RATE)


def shard_of(run: str, shard: int, rows: int = 3, duration_s: float = 0.5, first: int | None = None) -> ShardRows:
    """A shard of `rows` requests with carried columns; `first` numbers them, and so decides their keys."""
    start = shard * rows if first is None else first
    requests = [
        Request(prompt=f"prompt {i}", id=f"id{i}" if i % 2 else None, seed=i, duration_s=duration_s, top_p=0.5)
        for i in range(start, start + rows)
    ]
    keys = [hashlib.sha256(f"row {i}".encode()).hexdigest() for i in range(start, start + rows)]
    carried = pa.table(
        [
            pa.array(range(start, start + rows), pa.int64()),
            pa.array(([["a", "b"], None, []] * rows)[:rows], pa.list_(pa.string())),
            pa.array(["theirs"] * rows),
        ],
        schema=CARRIED,
    )
    return ShardRows(run, shard, requests, keys, [f"prompts.csv:{i + 2}" for i in range(start, start + rows)], carried)


def plan_of(
    run: str, rows: int, shard_rows: Sequence[Sequence[int]] = (), invalid: int = 0, model: PlannedModel = MODEL
) -> Plan:
    """A run's plan; `shard_rows` are the rows of each shard, by file of the normalized manifest."""
    parts = tuple(
        PlanPart(paths.manifest_part(run, "a0", number), tuple(sizes), tuple(0.5 * size for size in sizes))
        for number, sizes in enumerate(shard_rows)
    )
    return Plan(
        run=run,
        number=1,
        job={},
        model=model,
        slots="auto",
        manifest_fingerprint="",
        parts=parts,
        rows=rows,
        audio_s=0.5 * rows,
        longest_s=0.5,
        invalid=invalid,
    )


@dataclass
class Maker:
    """Makes datasets shard by shard."""

    store: Store
    audio: AudioSettings = field(default_factory=AudioSettings)

    def writer(
        self, run: str = "r1-1", shard: int = 0, attempt: str = "a0", rows: ShardRows | None = None, **options
    ) -> ShardWriter:
        """A writer of the shard; the dataset is pinned first."""
        rows = rows or shard_of(run, shard, **options)
        write_dataset_info(
            self.store, DatasetInfo.of(self.audio.layout, self.audio.format, rows.carried.schema, self.audio.codes)
        )
        return ShardWriter(self.store, run, shard, attempt, rows, self.audio, MODEL, "torch 2; cpu; fp32; slots 4")

    def shard(
        self,
        run: str = "r1-1",
        shard: int = 0,
        attempt: str = "a0",
        failing: dict | None = None,
        channels: int = 1,
        **options,
    ):
        """Make a whole shard; `failing` maps positions to errors."""
        rows = options.pop("rows_of", None) or shard_of(run, shard, **options)
        with self.writer(run, shard, attempt, rows) as writer:
            for position, request in enumerate(rows.requests):
                if failing and position in failing:
                    writer.fail(position, failing[position], 2)
                else:
                    writer.add(position, clip_of(request, channels))
            return writer.commit()

    def settings(self, **changes) -> "Maker":
        """The same place with other audio settings."""
        return replace(self, audio=AudioSettings(**changes))


@pytest.fixture
def make(tmp_path: Path) -> Maker:
    """A maker in a local folder."""
    return Maker(open_store(str(tmp_path / "dataset")))


@pytest.fixture(params=["folder", "s3"])
def make_anywhere(request: pytest.FixtureRequest, tmp_path: Path) -> Maker:
    """A maker in a local folder, and one in a bucket."""
    return Maker(
        open_store(str(tmp_path / "dataset") if request.param == "folder" else request.getfixturevalue("s3").uri)
    )


@pytest.fixture
def wave() -> Callable[..., np.ndarray]:
    """A sine: amplitude, seconds, channels."""

    def sine(amplitude: float = 0.5, seconds: float = 1.0, channels: int = 1, hz: float = 440.0) -> np.ndarray:
        time = np.arange(int(seconds * RATE)) / RATE
        return np.repeat((amplitude * np.sin(2 * np.pi * hz * time)).astype(np.float32)[None], channels, axis=0)

    return sine
