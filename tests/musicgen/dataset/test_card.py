"""The card, and the rows that Hugging Face's loader reads from the folder."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

import musicgen.dataset
from musicgen.audio import decode_audio
from musicgen.dataset import huggingface_table
from musicgen.dataset.card import publish_card, render_card
from musicgen.dataset.huggingface_table import write_table
from musicgen.dataset.listen import write_page
from musicgen.errors import RowError
from musicgen.shard import PlannedModel
from musicgen.storage import open_store

from .conftest import FRAME_RATE, Maker, clip_of, plan_of, shard_of

STAND_IN = Path(__file__).with_name("torchcodec_stand_in")

LOAD = """
import json, sys
import numpy as np
from datasets import Audio, load_dataset
out, features = sys.argv[1], {}
for name in ("files", "small files", "parquet", "webdataset", "small webdataset"):
    layout = name.split()[-1]
    column = "flac" if layout == "webdataset" else "audio"
    clips = load_dataset(f"{out}/{name}", split="train", cache_dir=out + "/cache")
    assert isinstance(clips.features[column], Audio), clips.features
    features[name] = repr(clips.features)
    rows, sounds = {}, {}
    for clip in clips:
        about = clip["json"] if layout == "webdataset" else clip
        samples = clip[column].get_all_samples()
        sounds[about["key"]] = samples.data.numpy()
        rows[about["key"]] = [samples.sample_rate, about["prompt"], about["caption_id"], about["tags"]]
    np.savez(f"{out}/{name}.npz", **sounds)
    with open(f"{out}/{name}.json", "w") as file:
        json.dump(rows, file)
with open(f"{out}/features.json", "w") as file:
    json.dump(features, file)
"""


def planned(make: Maker, model: str = "facebook/musicgen-small", run: str = "r1-1", rows: int = 9) -> Maker:
    plan = plan_of(run, rows, invalid=2, model=PlannedModel(model, "0123abc", "0" * 64, FRAME_RATE))
    make.store.write(f"runs/{run}/plan.json", plan.to_json().encode())
    return make


def a_dataset(make: Maker) -> Maker:
    """Five clips of three shards, one of them without any, and leavings of attempts that died."""
    make.shard(failing={1: RowError("generation", "no")})
    make.shard(shard=1)
    make.shard(shard=2, failing=dict.fromkeys(range(3), RowError("generation", "no")))
    if make.audio.layout == "webdataset":
        tar = next(make.store.list("audio")).path
        make.store.write("audio/r1-1/part-00000-dead.tar", make.store.read(tar))
    elif make.audio.layout == "files":
        make.store.write("audio/ab/orphan.flac", make.store.read(next(make.store.list("audio")).path))
    return planned(make)


def expected() -> dict[str, np.ndarray]:
    return {
        key: clip_of(request).audio
        for shard in (0, 1)
        for position, (key, request) in enumerate(
            zip(shard_of("r1-1", shard).keys, shard_of("r1-1", shard).requests, strict=True)
        )
        if (shard, position) != (0, 1)
    }


def test_load_dataset_on_the_folder_gives_our_samples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """With a stand-in for torchcodec's two classes, as they need FFmpeg; `datasets` does all the rest."""
    names = ("files", "small files", "parquet", "webdataset", "small webdataset")
    for name in names:
        monkeypatch.setattr(huggingface_table, "SMALL_BYTES", (1 << 20) * name.startswith("small"))
        make = a_dataset(Maker(open_store(str(tmp_path / name))).settings(layout=name.split()[-1]))
        publish_card(musicgen.dataset.open_dataset(make.store.uri))
        write_page(musicgen.dataset.open_dataset(make.store.uri))  # its files lie in the folder that is loaded
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hf"), "PYTHONPATH": str(STAND_IN)}
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    subprocess.run([sys.executable, "-c", LOAD, str(tmp_path)], cwd=elsewhere, env=environment, check=True, timeout=200)
    for name in names:
        rows, sounds = json.loads((tmp_path / f"{name}.json").read_text()), np.load(tmp_path / f"{name}.npz")
        assert rows.keys() == expected().keys(), name
        assert all(np.abs(sounds[key] - audio).max() < 1e-4 for key, audio in expected().items()), name
        assert rows[shard_of("r1-1", 0).keys[0]] == [32000, "prompt 0", 0, ["a", "b"]], name
    features = json.loads((tmp_path / "features.json").read_text())
    assert features["files"] == features["small files"]  # a script written for a sample works on the whole
    assert features["webdataset"] == features["small webdataset"]


def test_the_name_of_a_carried_column_stays_in_its_code_span(make: Maker) -> None:
    make.shard()
    dataset = musicgen.dataset.open_dataset(make.store.uri)
    named = replace(dataset, info=replace(dataset.info, carried={"a`<b>\n# x <!-- musicgen:end -->": "string"}))
    assert "manifest: ``a`<b> # x <! -- musicgen:end -->``." in render_card(named)


def test_a_carried_column_is_not_taken_for_a_file(make: Maker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(huggingface_table, "SMALL_BYTES", 0)
    rows = shard_of("r1-1", 0, 1)
    carried = pa.table({"source_file_name": ["x.wav"], "file_name": ["y.wav"]})
    make.shard(rows_of=replace(rows, carried=carried))
    write_table(musicgen.dataset.open_dataset(make.store.uri), tmp_path)
    row = pq.read_table(make.store.join("metadata.parquet")).to_pylist()[0]
    assert row["file_name"].startswith("audio/")
    assert (row["source_file_name_"], row["file_name_"]) == ("x.wav", "y.wav")


@pytest.mark.parametrize("layout", ["files", "parquet", "webdataset"])
def test_to_huggingface_needs_no_torchcodec(make_anywhere: Maker, layout: str):
    import datasets

    make = a_dataset(make_anywhere.settings(layout=layout))
    clips = musicgen.dataset.open_dataset(make.store.uri).to_huggingface()
    assert isinstance(clips.features["audio"], datasets.Audio)
    raw = clips.cast_column("audio", datasets.Audio(decode=False))
    assert raw.num_rows == 5
    for row in raw:
        data = row["audio"]["bytes"] or Path(row["audio"]["path"]).read_bytes()
        assert np.abs(decode_audio(data)[0] - expected()[row["key"]]).max() < 1e-4


@pytest.mark.parametrize("layout", ["files", "parquet", "webdataset"])
def test_load_dataset_without_torchcodec(make: Maker, layout: str, tmp_path: Path):
    import datasets

    make = a_dataset(make.settings(layout=layout))
    publish_card(musicgen.dataset.open_dataset(make.store.uri))
    clips = datasets.load_dataset(make.store.uri, split="train", cache_dir=str(tmp_path))
    column = "flac" if layout == "webdataset" else "audio"
    assert isinstance(clips.features[column], datasets.Audio)
    if layout != "webdataset":
        assert clips.column_names == musicgen.dataset.open_dataset(make.store.uri).schema().names
    raw = clips.cast_column(column, datasets.Audio(decode=False))
    keys = [row["__key__"] if layout == "webdataset" else row["key"] for row in raw]
    assert set(keys) == expected().keys()
    assert all(
        np.abs(decode_audio(row[column]["bytes"])[0] - expected()[key]).max() < 1e-4
        for key, row in zip(keys, raw, strict=True)
    )


@pytest.mark.parametrize("layout", ["files", "parquet", "webdataset"])
def test_a_dataset_without_clips_has_a_card(make: Maker, layout: str):
    make = make.settings(layout=layout)
    make.shard(failing=dict.fromkeys(range(3), RowError("generation", "no")))
    assert "0 clips" in publish_card(musicgen.dataset.open_dataset(make.store.uri)).text


def test_a_dataset_that_outgrows_its_copy_loses_it(make: Maker, monkeypatch: pytest.MonkeyPatch):
    def tables() -> list[str]:
        return [f.path for f in make.store.list() if "/" not in f.path and f.path.endswith(".parquet")]

    make.shard()
    size = sum(musicgen.dataset.open_dataset(make.store.uri).to_arrow(["audio_bytes"]).column(0).to_pylist())
    monkeypatch.setattr(huggingface_table, "SMALL_BYTES", size)
    assert "huggingface.parquet" in publish_card(musicgen.dataset.open_dataset(make.store.uri)).text
    assert tables() == ["huggingface.parquet"]
    make.shard(shard=1)
    assert "metadata.parquet" in publish_card(musicgen.dataset.open_dataset(make.store.uri)).text
    assert tables() == ["metadata.parquet"]


def matter(card: str) -> dict:
    return yaml.safe_load(card.split("---\n")[1])


def test_the_card_names_the_checkpoint_and_its_license(make: Maker):
    card = publish_card(musicgen.dataset.open_dataset(a_dataset(make).store.uri), title="Night music").text
    assert make.store.read("README.md").decode() == card
    assert matter(card)["license"] == "cc-by-nc-4.0"
    assert matter(card)["size_categories"] == ["n<1K"]
    assert "`facebook/musicgen-small` at revision `0123abc` (license of the weights: CC-BY-NC-4.0)" in card
    assert "# Night music" in card
    assert "5 clips, 2 s" in card
    assert "| `r1-1` | 9 | 5 | 4 | 0 |" in card


@pytest.mark.parametrize(
    ("models", "license"),
    [
        (["musicgen-small", "facebook/musicgen-large"], "cc-by-nc-4.0"),
        (["embedded"], "apache-2.0"),
        (["embedded", "musicgen-small"], "cc-by-nc-4.0"),
        (["audioldm2", "cvssp/audioldm2-large", "embedded"], "cc-by-nc-sa-4.0"),
        (["audioldm2-music", "musicgen-small"], "other"),
        (["/home/someone/secret-place/my-model"], "other"),
        ([], "other"),
    ],
)
def test_the_license_is_the_strictest_of_the_weights(make: Maker, models: list[str], license: str):
    make.shard()
    for number, model in enumerate(models):
        planned(make, model, f"r1-{number + 1}")
    card = render_card(musicgen.dataset.open_dataset(make.store.uri))
    assert matter(card)["license"] == license
    assert "/home/someone" not in card
    assert make.store.uri not in card


def test_a_webdataset_card_lists_tars_only_where_a_glob_would_take_too_many(
    make: Maker, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(huggingface_table, "SMALL_BYTES", 0)
    make = make.settings(layout="webdataset")
    make.shard()
    paths = matter(render_card(musicgen.dataset.open_dataset(make.store.uri)))["configs"][0]["data_files"][0]["path"]
    assert paths == ["audio/*/*.tar"]
    make.store.write("audio/r1-1/part-00000-dead.tar", b"")
    paths = matter(render_card(musicgen.dataset.open_dataset(make.store.uri)))["configs"][0]["data_files"][0]["path"]
    assert paths == ["audio/r1-1/part-00000-a0.tar"]
    make.shard("r2-1", first=10)
    paths = matter(render_card(musicgen.dataset.open_dataset(make.store.uri)))["configs"][0]["data_files"][0]["path"]
    assert paths == ["audio/r1-1/part-00000-a0.tar", "audio/r2-1/*.tar"]
