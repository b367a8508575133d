"""AudioLDM 2's engine against diffusers' own pipeline, on random weights in the published format."""

import json
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from musicgen.clip import Clip, Failed
from musicgen.errors import ModelError, RowError
from musicgen.families.audioldm2.checkpoint_sizes import read_spec
from musicgen.families.audioldm2.noise import draw_normals
from musicgen.families.registry import resolve_checkpoint
from musicgen.job import Job
from musicgen.plan.row_schema import make_requests
from musicgen.plan.spilled_manifest import spill_manifest
from musicgen.request import Request
from musicgen.storage import open_store

diffusers = pytest.importorskip("diffusers", reason="the extra `diffusion` is not installed")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.fixtures.audioldm2_checkpoint import write_audioldm2

    return write_audioldm2(tmp_path_factory.mktemp("audioldm2"))


@pytest.fixture(scope="module")
def pipeline(checkpoint: Path) -> Any:
    pipeline = diffusers.AudioLDM2Pipeline.from_pretrained(checkpoint)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture
def engine(pipeline: Any, checkpoint: Path) -> Any:
    from musicgen.families.audioldm2.denoising_engine import AudioLdm2Engine

    return AudioLdm2Engine(pipeline, read_spec(checkpoint), threads=torch.get_num_threads())


def make_all(engine: Any, requests: list[Request]) -> dict[Request, Clip]:
    """Make the clips, with as many requests in the engine as it takes."""
    waiting, made = list(requests), {}
    while waiting or engine.busy:
        while waiting and engine.room:
            engine.add(waiting.pop(0))
        for clip in engine.step():
            assert isinstance(clip, Clip), clip
            made[clip.request] = clip
    return made


REQUESTS = [
    Request(
        prompt=" ".join(["slow", "piano", "with strings"][: 1 + index % 3] * (1 + index)),
        duration_s=0.3 + 0.17 * index,
        seed=1000 + index,
        steps=3 + index % 2,
        guidance_scale=[3.5, 1.0, 2.0][index % 3],
        negative_prompt="Low quality." if index % 2 else "",
    )
    for index in range(5)
]


@pytest.mark.parametrize("request_", REQUESTS, ids=range(len(REQUESTS)))
def test_a_clip_is_what_the_pipeline_makes_of_the_same_noise(engine: Any, pipeline: Any, request_: Request) -> None:
    frames = round(request_.duration_s * 100)
    noise = draw_normals(request_.seed or 0, 4 * -(-frames // 2) * 4).reshape(1, 4, -(-frames // 2), 4)
    expected = pipeline(
        prompt=request_.prompt,
        negative_prompt=request_.negative_prompt or None,
        audio_length_in_s=frames / 100,
        num_inference_steps=request_.steps,
        guidance_scale=request_.guidance_scale,
        latents=noise,
    ).audios
    clip = make_all(engine, [request_])[request_]
    assert np.array_equal(clip.audio, expected)
    assert clip.audio.shape == (1, frames * 160)
    assert (clip.sample_rate, clip.codes.shape) == (16_000, (0, frames))
    assert engine.steps == request_.steps, "progress is counted in denoising steps"


def test_a_clip_depends_on_its_request_alone(engine: Any) -> None:
    alone = {request: make_all(engine, [request])[request] for request in REQUESTS}
    for order in range(3):
        shuffled = random.Random(order).sample(REQUESTS, len(REQUESTS))
        for request, clip in make_all(engine, shuffled).items():
            assert np.array_equal(clip.audio, alone[request].audio)
    assert len({clip.audio.tobytes() for clip in alone.values()}) == len(REQUESTS)


@pytest.mark.parametrize(
    ("request_", "reason"),
    [
        (Request(prompt="piano", melody="tune.wav", seed=1), "AudioLDM 2 takes no melody"),
        (Request(prompt="piano", continuation="tune.wav", seed=1), "AudioLDM 2 takes no continuation"),
        (Request(prompt="piano", duration_s=10.25, seed=1), "duration_s 10.25 is more than AudioLDM 2 makes"),
    ],
)
def test_what_the_model_cannot_make_is_refused_by_name(engine: Any, request_: Request, reason: str) -> None:
    with pytest.raises(RowError, match=reason):
        engine.add(request_)
    assert not engine.busy
    engine.add(Request(prompt="piano", duration_s=10.24, seed=1))


def test_lack_of_memory_is_a_row_and_the_next_one_goes_on(
    engine: Any, pipeline: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward, failures = type(pipeline.unet).forward, [3]

    def tight(self: Any, *arguments: Any, **named: Any) -> Any:
        if failures[0]:
            failures[0] -= 1
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(self, *arguments, **named)

    monkeypatch.setattr(type(pipeline.unet), "forward", tight)
    engine.add(REQUESTS[0])
    engine.add(REQUESTS[1])
    (failed,), (made,) = engine.step(), engine.step()
    assert isinstance(failed, Failed)
    assert failed.error.error_class == "generation"
    assert "out of memory with a single clip" in str(failed.error)
    assert isinstance(made, Clip), "the third failure was tried again"


def test_the_fingerprint_names_library_and_scheduler(engine: Any) -> None:
    parts = json.loads(engine.fingerprint)
    assert parts["diffusers"] == diffusers.__version__
    assert (parts["scheduler"], parts["slots"], parts["dtype"]) == ("DDIMScheduler", 1, "float32")


def test_noise_is_normal_and_a_function_of_its_place() -> None:
    noise = draw_normals(12345, 200_001)
    assert torch.equal(draw_normals(12345, 100), noise[:100])
    assert not torch.equal(draw_normals(12346, 100), noise[:100])
    assert abs(noise.mean()) < 0.01
    assert noise.std() == pytest.approx(1.0, abs=0.01)
    assert (noise**4).mean() == pytest.approx(3.0, abs=0.1)
    assert (noise[:-1] * noise[1:]).mean() == pytest.approx(0.0, abs=0.01)
    assert noise.isfinite().all()
    assert draw_normals(2**63 - 1, 3).isfinite().all()


def test_fields_of_another_family_are_carried(checkpoint: Path, tmp_path: Path) -> None:
    manifest = tmp_path / "rows.csv"
    manifest.write_text("prompt,negative_prompt,steps,top_k\npiano,noise,3,7\nflute,,,\n")
    carried, requests = {}, {}
    for name in ("embedded", str(checkpoint)):
        settings = {"manifest": {"uri": str(manifest)}, "output": {"uri": str(tmp_path / "out")}}
        job = Job.model_validate({**settings, "generation": {"duration_s": 0.5}})
        store, folder = open_store(job.output.uri), tmp_path / Path(name).name
        folder.mkdir()
        spilled = spill_manifest(job, resolve_checkpoint(name), store, folder, None)
        carried[name] = spilled.carried.schema.names
        (rows,) = spilled.select_rows([np.array([0, 1])])
        requests[name] = make_requests(rows)
    assert carried == {
        "embedded": ["manifest_negative_prompt", "manifest_steps"],
        str(checkpoint): ["manifest_top_k"],
    }
    first, second = requests["embedded"]
    assert (first.top_k, first.steps, first.negative_prompt, second.top_k) == (7, None, "", 250)
    first, second = requests[str(checkpoint)]
    assert (first.steps, first.negative_prompt, first.guidance_scale) == (3, "noise", 3.5)
    assert (second.steps, second.negative_prompt) == (None, "")


def test_an_index_that_names_another_library_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(checkpoint, tmp_path / "copy"))
    index = json.loads((folder / "model_index.json").read_text())
    index["unet"] = ["antigravity", "Model"]
    (folder / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(ModelError, match=r"names another library for unet"):
        resolve_checkpoint(folder)
    index["unet"] = ["diffusers", "AudioLDM2UNet2DConditionModel"]
    index["safety_checker"] = [None, None]  # as diffusers writes a component that is left out
    (folder / "model_index.json").write_text(json.dumps(index))
    assert resolve_checkpoint(folder).family.name == "audioldm2"
    (folder / "vae" / "diffusion_pytorch_model.safetensors").unlink()
    index["unet"] = ["diffusers", "AudioLDM2UNet2DConditionModel"]
    (folder / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(ModelError, match=r"no safetensors in vae"):
        resolve_checkpoint(folder)
