"""A family of fifty lines in a folder of its own: planned, made and committed by code that does not know it."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import musicgen.dataset
from actors.actor_config import ActorConfig
from actors.generation_loop import GenerationLoop
from actors.generator import load_engine
from actors.messages import ShardAttempt
from actors.running_attempt import RunningAttempt
from musicgen import families
from musicgen.errors import ModelError
from musicgen.families.registry import list_families, resolve_checkpoint
from musicgen.job import Job
from musicgen.plan import make_plan
from musicgen.storage import open_store

TOY = """
import numpy as np
from dataclasses import dataclass
from musicgen.clip import Clip
from musicgen.unfinished_clips import UnfinishedClips
from musicgen.model.checkpoint.layout import FileLayout


@dataclass(frozen=True)
class Spec:
    family = "toy"
    sample_rate, frame_rate, channels, max_frames = 8000, 10.0, 1, 50
    row_fields = frozenset({"prompt", "id", "duration_s", "samples", "seed"})
    default_guidance_scale, has_codes, accepts_sound_prompt = 3.0, False, False

    def supports(self, control): return control == "text"
    def estimate_speed(self, on_gpu): return 100.0


class Engine:
    slots, fingerprint, steps = 2, '{"device": "none"}', 0

    def __init__(self): self.queue = []
    @property
    def room(self): return 2 - len(self.queue)
    @property
    def busy(self): return bool(self.queue)
    def add(self, request): self.queue.append(request)
    def close(self): pass
    def measure_unfinished(self): return UnfinishedClips()
    def step(self):
        request, self.steps = self.queue.pop(0), self.steps + 1
        frames = request.frames(10.0)
        pitch = 200 + request.seed % 400
        audio = 0.5 * np.sin(2 * np.pi * pitch * np.arange(frames * 800) / 8000, dtype=np.float32)
        return [Clip(request, np.zeros((0, frames), np.int16), audio[None], 8000)]


class Toy:
    name = "toy"
    layout = FileLayout("toy.json", ("toy.json",), lambda folder: True)
    def recognizes(self, folder): return True
    def read_spec(self, folder): return Spec()
    def identify(self, folder): return (folder / "toy.json").read_text()
    def load_engine(self, checkpoint, settings): return Engine()


FAMILY = Toy()
"""


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The family's folder is on the package's path, as if it lay in it; a checkpoint of its own."""
    folder = tmp_path / "families" / "toy"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text(TOY)
    monkeypatch.setattr(families, "__path__", [*families.__path__, str(folder.parent)])
    list_families.cache_clear()
    checkpoint = tmp_path / "checkpoint"
    checkpoint.mkdir()
    (checkpoint / "toy.json").write_text("ab" * 32)
    yield checkpoint
    list_families.cache_clear()
    for name in [name for name in sys.modules if name.startswith("musicgen.families.toy")]:
        del sys.modules[name]


def test_a_family_is_one_folder(toy: Path, tmp_path: Path) -> None:
    assert [family.name for family in list_families()] == ["audioldm2", "musicgen", "toy"]
    manifest = tmp_path / "rows.csv"
    manifest.write_text("prompt,melody\nhigh,a.wav\nlow,b.wav\n,\n")
    job = Job.model_validate(
        {
            "manifest": {"uri": str(manifest)},
            "model": {"name": str(toy)},
            "generation": {"duration_s": 1},
            "output": {"uri": str(tmp_path / "out")},
        }
    )
    checkpoint, store = resolve_checkpoint(str(toy)), open_store(str(tmp_path / "out"))
    outcome = make_plan(job, checkpoint, store)
    assert (outcome.new, outcome.invalid_count) == (2, 1)
    plan = outcome.plan
    assert plan is not None
    assert (plan.model.family, plan.model.identity) == ("toy", "ab" * 32)
    config = ActorConfig(
        plan=plan,
        output=job.output.uri,
        single_writer=False,
        store_patience_s=60.0,
        model=job.model,
        audio=job.audio,
        device="cpu",
        dtype="auto",
        slots="auto",
        cpus=1.0,
        gpus=0.0,
        driver="driver",
        driver_token="",
        versions={},
    )
    engine = load_engine(config)
    loop = GenerationLoop(engine)
    try:
        for shard in plan.shards:
            attempt = RunningAttempt(store, config, ShardAttempt(shard), engine.fingerprint)
            attempt.submit_rows(loop)
            attempt.wait(loop)
            assert attempt.commit().won
    finally:
        loop.close()
    rows = musicgen.dataset.open(str(tmp_path / "out")).to_arrow().to_pylist()
    assert {(row["family"], row["prompt"], row["manifest_melody"]) for row in rows} == {
        ("toy", "high", "a.wav"),
        ("toy", "low", "b.wav"),
    }
    assert {(row["sample_rate"], row["frames"], row["duration_s"]) for row in rows} == {(8000, 10, 1.0)}


def test_a_folder_of_no_family_is_named(toy: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(ModelError, match=r"no config.json or model_index.json or toy.json of a known family"):
        resolve_checkpoint(str(empty))
    (empty / "model_index.json").write_text(json.dumps({"_class_name": "StableDiffusionPipeline"}))
    with pytest.raises(ModelError, match=r"audioldm2, musicgen, toy"):
        resolve_checkpoint(str(empty))
