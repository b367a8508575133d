"""Recipes: from a folder of music to a checkpoint by one command, stages done once; and the ablation of patterns."""

import json
from pathlib import Path

import numpy as np
import pytest

from musicgen import MusicGen, Request
from musicgen.errors import JobError, UserError
from musicgen.presets import config_file
from musicgen.training.ablation import run_ablation
from musicgen.training.recipe import Recipe
from musicgen.training.recipe_stages import run_recipe
from tests.fixtures.random_checkpoint import Sizes as Random
from tests.fixtures.random_checkpoint import write_checkpoint

SMALL = {
    "codec": {"codebook_size": 64},
    "model": {"hidden": 32, "layers": 2, "text_hidden": 16, "vocabulary": 160, "positions": 84, "chroma_length": 14},
    "training": {"steps": 4, "batch_frames": 160, "crop_s": (0.6, 1.6), "valid_steps": 2},
    "export": {"dtype": "float16"},
}


def _quiet(_: object) -> None:
    pass


def test_a_folder_of_music_becomes_a_model_that_generates(music: Path, melody_file: Path, tmp_path: Path) -> None:
    recipe = Recipe.model_validate({"data": str(music), "output": str(tmp_path / "out"), **SMALL})
    export = run_recipe(recipe, "musicgen train this", on_message=_quiet)
    with MusicGen.from_pretrained(str(export)) as model:
        assert (model.sample_rate, model.spec.max_frames, model.spec.kind) == (16_000, 80, "melody")
        clip = model.generate([Request(prompt="slow piano number 3", melody=str(melody_file), duration_s=1.0)])[0]
        assert clip.audio.shape == (1, 16_000)
    card = (export / "README.md").read_text()
    assert "musicgen train this" in card
    assert "2 rows could not be used" in card
    assert "float16" in (export / "config.json").read_text()

    before = {
        path: path.stat().st_mtime_ns
        for folder in ("codec", "start", "tokens")
        for path in (tmp_path / "out" / folder).iterdir()
    }
    weights = (export / "model.safetensors").read_bytes()
    run_recipe(recipe, on_message=_quiet)
    assert before == {path: path.stat().st_mtime_ns for path in before}
    assert (export / "model.safetensors").read_bytes() == weights
    other = recipe.model_copy(update={"model": recipe.model.model_copy(update={"layers": 3})})
    difference = r"\(model.layers: 2, and 3 in the recipe\)"
    with pytest.raises(UserError, match=rf"start was made with other settings .*{difference}; give another --output"):
        run_recipe(other, on_message=_quiet)


def test_a_published_checkpoint_keeps_its_codec_and_tokenizer(music: Path, tmp_path: Path) -> None:
    start = write_checkpoint(tmp_path / "start", Random(kind="text", half=True), seed=1)
    said = {"training": {"steps": 3, "batch_frames": 160, "text_encoder": "freeze"}}
    export = run_recipe(
        Recipe.model_validate({"data": str(music), "output": str(tmp_path / "out"), "start": str(start), **said}),
        on_message=_quiet,
    )
    from safetensors.torch import load_file

    before, after = load_file(start / "model.safetensors"), load_file(export / "model.safetensors")
    assert set(before) == set(after)
    changed = {name.split(".")[0] for name in before if not np.array_equal(before[name], after[name])}
    assert changed == {"decoder", "enc_to_dec_proj"}
    assert {t.dtype for t in after.values()} == {t.dtype for t in before.values()}
    assert (export / "tokenizer.json").read_bytes() == (start / "tokenizer.json").read_bytes()
    assert (export / "preprocessor_config.json").is_file()


@pytest.mark.slow
def test_an_ablation_trains_each_pattern_alike_and_tables_it(music: Path, tmp_path: Path) -> None:
    said = {**SMALL, "ablation": ["delay", "parallel", "coarse_first", "flattening"]}
    recipe = Recipe.model_validate({"data": str(music), "output": str(tmp_path / "out"), **said})
    table = run_ablation(recipe, on_message=_quiet, measures=lambda folder: {"distance": float(len(folder.name))})
    rows = json.loads(table.with_suffix(".json").read_text())
    assert [row["pattern"] for row in rows] == list(recipe.ablation)
    assert [row["decoder steps a window"] for row in rows] == [83, 80, 160, 320]
    assert len({row["training steps"] for row in rows}) == 1
    assert all(row["generated s/s"] > 0 and row["distance"] == 6 for row in rows)
    assert table.read_text().count("\n") == 6
    before = table.read_bytes()
    run_ablation(recipe, on_message=_quiet, measures=lambda folder: pytest.fail(f"{folder} is measured already"))
    assert table.read_bytes() == before


def test_a_wrong_recipe_is_reported_in_one_line(tmp_path: Path) -> None:
    def load(text: str) -> Recipe:
        (tmp_path / "r.yaml").write_text(text)
        return Recipe.load(tmp_path / "r.yaml")

    with pytest.raises(
        JobError, match=r"r.yaml:3: unknown key `training.learning_rat`; did you mean `training.learning_rate`"
    ):
        load("output: x\ntraining:\n  learning_rat: 1\n  steps: 1\n")
    with pytest.raises(JobError, match="either steps or hours"):
        load("output: x\ntraining: {steps: 1, hours: 2}\n")
    with pytest.raises(JobError, match="names no output"):
        load("training: {steps: 1}\n")
    with pytest.raises(JobError, match="`model` says nothing with `start`"):
        load("output: x\nstart: embedded\nmodel: {hidden: 16}\ntraining: {steps: 1}\n")
    with pytest.raises(JobError, match="only the composed corpus teaches"):
        load("output: x\ndata: y\ntraining: {steps: 1, text_encoder: freeze}\n")
    with pytest.raises(JobError, match=r"`model.ticks` wants a text encoder that was taught"):
        load("output: x\ndata: y\nmodel: {ticks: 79}\ntraining: {steps: 1}\n")
    with pytest.raises(JobError, match="unknown codebook pattern 'delya'"):
        load("output: x\ntraining: {steps: 1, pattern: delya}\n")


def test_wrong_data_is_reported_in_one_line(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    recipe = Recipe.model_validate({"data": str(tmp_path / "data"), "output": str(tmp_path / "out"), **SMALL})
    (tmp_path / "data").mkdir()
    with pytest.raises(UserError, match="nothing to train on"):
        run_recipe(recipe, on_message=_quiet)
    pq.write_table(pa.table({"audio": ["a.flac"], "caption": ["x"]}), tmp_path / "data" / "a.parquet")
    with pytest.raises(UserError, match="lacks the column 'prompt'; it has audio, caption"):
        run_recipe(recipe, on_message=_quiet)


@pytest.mark.parametrize("name", ["embedded", "ablation"])
def test_the_shipped_recipes_are_valid(name: str) -> None:
    recipe = Recipe.load(str(config_file("training", f"{name}.yaml")))
    assert recipe.data is None
    assert recipe.model.positions == 504


def test_the_ablation_shares_what_the_embedded_model_is_made_of() -> None:
    embedded, ablation = (
        Recipe.load(str(config_file("training", f"{name}.yaml"))) for name in ("embedded", "ablation")
    )
    for name in ("output", "corpus", "codec", "model"):
        assert getattr(embedded, name) == getattr(ablation, name)
    only = {"hours"}
    assert embedded.training.model_dump(exclude=only) == ablation.training.model_dump(exclude=only)
