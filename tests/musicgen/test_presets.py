"""Model presets are data that the program can rely on."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from musicgen.job import Job
from musicgen.model.spec import CONTROLS
from musicgen.presets import all_presets, config_file, find_preset, preset_names, presets_with, resolve_config

ROOT = Path(__file__).parents[2]


def test_every_published_checkpoint_has_one() -> None:
    sizes = ("small", "medium", "large", "melody", "melody-large")
    names = {f"musicgen-{stereo}{size}" for stereo in ("", "stereo-") for size in sizes} | {"musicgen-style"}
    names |= {"audioldm2", "audioldm2-large", "audioldm2-music"}
    assert set(preset_names()) == names
    assert all_presets()[0].name == "embedded"


@pytest.mark.parametrize("preset", all_presets(), ids=lambda preset: preset.name)
def test_what_a_preset_says_fits_together(preset) -> None:
    assert set(preset.controls) <= set(CONTROLS)
    assert ("stereo" in preset.controls) == (preset.channels == 2) == ("stereo" in preset.name)
    assert preset.codebooks == (None if preset.kind == "diffusion" else 4 * preset.channels)
    assert (preset.kind == "diffusion") == (preset.family == "audioldm2")
    assert ("melody" in preset.controls) == (preset.kind == "melody")
    if preset.hub:
        # of all weights that Meta published, and of AudioLDM 2's
        assert preset.license == {"musicgen": "CC-BY-NC-4.0", "audioldm2": "CC-BY-NC-SA-4.0"}[preset.family]
        assert find_preset(preset.hub) is preset


def test_who_could_is_ordered_by_what_was_asked() -> None:
    assert presets_with("melody", channels=1)[:2] == ["musicgen-melody", "musicgen-melody-large"]
    assert presets_with("melody", channels=2)[0] == "musicgen-stereo-melody"
    assert presets_with("melody")[-1] == presets_with("melody", channels=1)[-1] == "embedded"
    assert find_preset("musicgen-smal") is None


@pytest.mark.parametrize("name", ["demo", "musiccaps", "audioldm2", "review-musicgen", "review-audioldm2"])
def test_example_jobs_are_valid(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BUCKET", "my-bucket")
    job = Job.load(str(config_file("jobs", f"{name}.yaml")))
    assert job.model.name == "embedded" or find_preset(job.model.name)


def test_the_demo_manifest_is_varied() -> None:
    import csv

    with config_file("manifests", "demo.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 32
    assert len({row["prompt"] for row in rows}) == len({row["id"] for row in rows}) == 32
    assert len({row["genre"] for row in rows}) > 20


def test_a_config_that_is_not_here_is_taken_from_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    job = Job.load("configs/jobs/demo.yaml")
    assert Path(job.manifest.uri) == Path(str(config_file("manifests", "demo.csv")))
    assert resolve_config("configs/jobs/absent.yaml") == "configs/jobs/absent.yaml"
    assert resolve_config("jobs/demo.yaml") == "jobs/demo.yaml"


def test_a_config_that_is_here_is_taken_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("configs/jobs").mkdir(parents=True)
    Path("configs/jobs/demo.yaml").write_text("manifest: {uri: own.csv}\noutput: {uri: own}\n")
    assert Job.load("configs/jobs/demo.yaml").manifest.uri == str(tmp_path / "own.csv")


def test_a_folder_named_configs_hides_nothing(tmp_path: Path) -> None:
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "__init__.py").write_text("raise RuntimeError")
    code = "from musicgen.presets import all_presets; print(len(all_presets()))"
    env = os.environ | {"PYTHONPATH": os.pathsep.join((str(tmp_path), str(ROOT)))}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=env, capture_output=True, text=True, check=True
    )
    assert int(done.stdout) == len(all_presets())
