"""A dataset that changes is loaded as it is, though Hugging Face's `datasets` keeps what it has read in a cache."""

import shutil
from pathlib import Path

import pytest

import musicgen.dataset
from musicgen.dataset import huggingface_table
from musicgen.dataset.card import publish_card
from musicgen.errors import RowError
from musicgen.storage import open_store

from .conftest import Maker, shard_of

LAYOUTS = ["files", "parquet", "webdataset"]


def publish(make: Maker) -> str:
    return publish_card(musicgen.dataset.open_dataset(make.store.uri)).text


def load_keys(make: Maker, cache: Path) -> list[str]:
    """The keys that `load_dataset` gives, always with the same cache."""
    import datasets

    clips = datasets.load_dataset(make.store.uri, split="train", cache_dir=str(cache))
    return list(clips["__key__" if make.audio.layout == "webdataset" else "key"])


@pytest.mark.parametrize("readme", [None, "---\nlicense: mit\n---\nmine\n"], ids=["our-readme", "their-readme"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_load_dataset_gives_all_rows_after_every_run(make: Maker, tmp_path: Path, layout: str, readme: str | None):
    make = make.settings(layout=layout)
    expected: list[str] = []
    for night in range(3):
        make.shard(f"r{night}-1", 0, first=3 * night)
        if readme is not None and night == 0:
            make.store.write("README.md", readme.encode())
        expected += shard_of("", 0, first=3 * night).keys
        publish(make)
        assert sorted(load_keys(make, tmp_path / "cache")) == sorted(expected)


def test_a_dataset_that_was_made_anew_is_not_taken_for_the_old_one(make: Maker, tmp_path: Path):
    """With format wav the audio of both has the same size."""
    make = make.settings(format="wav", layout="parquet")
    for run, first in (("r1-1", 0), ("r2-1", 3)):
        make.shard(run, 0, first=first)
        publish(make)
        assert load_keys(make, tmp_path / "cache") == shard_of("", 0, first=first).keys
        shutil.rmtree(make.store.uri.removeprefix("file://"))


def test_only_a_change_of_the_index_makes_the_cache_obsolete(make: Maker):
    make.shard()
    card = publish(make)
    make.store.write("audio/ab/orphan.flac", b"left by an attempt that died")
    assert publish(make) == card
    make.shard(shard=1, failing=dict.fromkeys(range(3), RowError("generation", "no")))
    assert publish(make) != card


def test_a_large_dataset_names_the_state_of_its_index_too(make: Maker, monkeypatch: pytest.MonkeyPatch):
    """Its own loader needs torchcodec, so the cache is not tried; what the cache is named by is."""
    import datasets.load

    monkeypatch.setattr(huggingface_table, "SMALL_BYTES", 0)
    for layout in ("files", "webdataset"):
        grown = Maker(open_store(f"{make.store.uri}-{layout}")).settings(layout=layout)
        hashes = set()
        for shard in range(2):
            grown.shard(shard=shard)
            publish(grown)
            hashes.add(datasets.load.dataset_module_factory(grown.store.uri).hash)
        assert len(hashes) == 2
