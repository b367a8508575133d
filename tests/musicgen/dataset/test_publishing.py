"""What publishing writes over at the top of a dataset: what bears our mark, or an earlier release wrote. No more."""

import io
import re
import shutil
from functools import partial
from pathlib import Path

import duckdb
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

import musicgen.dataset
from musicgen.dataset import huggingface_table
from musicgen.dataset.card import PublishedCard, publish_card
from musicgen.dataset.card_text import build_card
from musicgen.dataset.earlier_release import is_earlier_card
from musicgen.dataset.huggingface_table import choose_table
from musicgen.dataset.reader import Dataset
from musicgen.dataset.readme import load_yaml, read_front_matter
from musicgen.dataset.status import run_statuses
from musicgen.storage import Store, open_store

from .conftest import Maker

GOLDEN = Path(__file__).parents[2] / "fixtures" / "golden"
LAYOUTS = ["files", "parquet", "webdataset"]
RUNS = 3


def publish(store: Store) -> PublishedCard:
    return publish_card(musicgen.dataset.open_dataset(store.uri))


def outside_marks(readme: str) -> tuple[str, str]:
    """What stands before and after the card, but for the state of the index that the front matter names."""
    readme = re.sub(r"description: index \w+", "description: ", readme)
    return readme.split("<!-- musicgen:begin")[0], readme.split("<!-- musicgen:end -->")[1]


def names_at_top(store: Store) -> set[str]:
    return {file_info.path for file_info in store.list() if "/" not in file_info.path}


def read_text(store: Store, path: str) -> str:
    return store.read(path).decode()


def write_parquet(store: Store, path: str, table: pa.Table) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink)
    store.write(path, sink.getvalue())
    return sink.getvalue()


def without_one_row(dataset: Dataset, table: pa.Table) -> pa.Table:
    """The table without a row of an index part that has more rows."""
    column = "__key__" if "__key__" in table.column_names else "key"
    sizes = {path: footer.made for path, footer in dataset.footers()}
    path = max(sizes, key=lambda path: sizes[path])
    key = pq.read_table(dataset.store.join(path), columns=["key"])["key"][-1]
    return table.filter(pc.not_equal(table[column], key))


@pytest.fixture(params=["folder", "s3"])
def golden(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """The golden dataset of layout files, in a local folder and in a bucket."""
    if request.param == "folder":
        return open_store(str(shutil.copytree(GOLDEN / "files", tmp_path / "files")))
    store = open_store(request.getfixturevalue("s3").uri)
    for file in (GOLDEN / "files").rglob("*"):
        if file.is_file():
            store.write(str(file.relative_to(GOLDEN / "files")), file)
    return store


def test_an_edited_readme_survives_three_runs(make_anywhere: Maker):
    make = make_anywhere
    make.shard()
    assert publish(make.store).notes == ()
    text = read_text(make.store, "README.md")
    text = text.replace("# Generated music", "# My album\n\nRecorded at night.") + "\n## Thanks\nto all\n"
    text = text.replace("license: cc-by-nc-4.0", "license: cc-by-4.0\nlanguage: en  # mostly")
    make.store.write("README.md", text.encode())
    for run in range(RUNS):
        make.shard(shard=run + 1)
        assert publish(make.store).path == "README.md"
        new = read_text(make.store, "README.md")
        assert f"{3 * (run + 2)} clips" in new
        assert outside_marks(new) == outside_marks(text)
    assert names_at_top(make.store) == {"README.md", "dataset.json", "huggingface.parquet"}


def test_a_readme_of_the_users_is_left_alone_and_that_is_said_once(make_anywhere: Maker):
    make = make_anywhere
    make.shard()
    publish(make.store)
    mine = b"---\nlicense: mit\n---\nI deleted all of it.\n"
    make.store.write("README.md", mine)
    notes = []
    for run in range(RUNS):
        make.shard(shard=run + 1)
        card = publish(make.store)
        notes += card.notes
        assert card.path == "README.musicgen.md"
        assert f"{3 * (run + 2)} clips" in read_text(make.store, "README.musicgen.md")
        assert make.store.read("README.md") == mine
    assert notes == ["README.md was left alone: it has no part that musicgen wrote; the card is in README.musicgen.md"]
    make.store.write("README.musicgen.md", b"this too is mine")
    assert publish(make.store).notes == (
        "the card was not written: README.md and README.musicgen.md have no part that musicgen wrote",
    )
    assert read_text(make.store, "README.musicgen.md") == "this too is mine"
    make.store.delete("README.md")
    make.store.delete("README.musicgen.md")
    assert publish(make.store).path == "README.md"
    assert names_at_top(make.store) == {"README.md", "dataset.json", "huggingface.parquet"}


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b"\x00" * 10, "Ünï\n".encode("latin-1")])
def test_a_readme_that_is_no_text_is_left_alone(make: Maker, content: bytes):
    make.shard()
    make.store.write("README.md", content)
    assert publish(make.store).path == "README.musicgen.md"
    assert make.store.read("README.md") == content


def test_an_empty_readme_is_filled(make: Maker):
    make.shard()
    make.store.write("README.md", b"\n")
    assert publish(make.store).path == "README.md"


@pytest.mark.parametrize("layout", LAYOUTS)
def test_load_dataset_reads_a_folder_whose_readme_is_the_users(make: Maker, layout: str, tmp_path: Path):
    import datasets

    make = make.settings(layout=layout)
    make.shard()
    make.store.write("README.md", b"---\nlicense: mit\n---\nmine\n")
    publish(make.store)
    clips = datasets.load_dataset(make.store.uri, split="train", cache_dir=str(tmp_path / "cache"))
    assert clips.num_rows == 3
    assert isinstance(clips.features["flac" if layout == "webdataset" else "audio"], datasets.Audio)
    config = read_text(make.store, ".huggingface.yaml")
    assert load_yaml(config)["configs"] == read_front_matter(read_text(make.store, "README.musicgen.md"))["configs"]
    # What the user says about loading counts, and what the user wrote there is not touched.
    make.store.write("README.md", b"---\nconfigs: []\n---\nmine\n")
    publish(make.store)
    assert not make.store.exists(".huggingface.yaml")
    make.store.write("README.md", b"mine\n")
    make.store.write(".huggingface.yaml", b"configs: []\n")
    publish(make.store)
    assert make.store.read(".huggingface.yaml") == b"configs: []\n"


def test_a_table_of_the_users_is_neither_written_over_nor_deleted(make_anywhere: Maker):
    make = make_anywhere
    make.shard()
    assert publish(make.store).notes == ()
    theirs = write_parquet(make.store, "metadata.parquet", pa.table({"file_name": ["x.wav"], "prompt": ["a"]}))
    for run in range(RUNS):
        make.shard(shard=run + 1)
        assert publish(make.store).notes == ("metadata.parquet was left alone: it is not a table that musicgen wrote",)
        assert make.store.read("metadata.parquet") == theirs
    assert pq.read_table(make.store.open("huggingface.parquet")).num_rows == 3 * (RUNS + 1)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_load_dataset_takes_another_way_where_a_table_is_the_users(make: Maker, layout: str):
    make = make.settings(layout=layout)
    make.shard()
    theirs = write_parquet(make.store, "huggingface.parquet", pa.table({"x": [1]}))
    card = publish(make.store)
    (config,) = read_front_matter(card.text)["configs"]
    expected = {
        "files": ["metadata.parquet", "audio/**"],
        "parquet": ["index/**/*.parquet"],
        "webdataset": ["audio/*/*.tar"],
    }
    assert config["data_files"][0]["path"] == expected[layout]
    if layout == "files":
        make.store.write("metadata.parquet", b"no table at all")
        card = publish(make.store)
        assert "configs" not in read_front_matter(card.text)
        assert card.notes[-1].startswith("load_dataset cannot read the dataset, because it needs metadata.parquet")
        assert make.store.read("metadata.parquet") == b"no table at all"
    assert make.store.read("huggingface.parquet") == theirs


def test_a_table_that_only_looks_like_an_earlier_one_is_the_users_in_a_new_dataset(make: Maker):
    """In a dataset of version 2 every table of ours has the mark."""
    make.shard()
    publish(make.store)
    table = pq.read_table(make.store.join("huggingface.parquet"))
    write_parquet(make.store, "huggingface.parquet", table.replace_schema_metadata(None))
    assert choose_table(musicgen.dataset.open_dataset(make.store.uri)).foreign == ("huggingface.parquet",)


# ------------------------------------------------------------ datasets of an earlier release


def test_what_the_earlier_release_wrote_is_replaced(golden: Store):
    assert "musicgen:begin" not in read_text(golden, "README.md")
    card = publish(golden)
    assert (card.path, card.notes) == ("README.md", ())
    assert read_text(golden, "README.md").count("<!-- musicgen:begin") == 1
    assert names_at_top(golden) == {"README.md", "dataset.json", "huggingface.parquet"}
    assert b"musicgen" in pq.read_schema(golden.open("huggingface.parquet")).metadata
    assert publish(golden).notes == ()


def test_a_card_of_the_earlier_release_that_was_edited_is_left_alone(golden: Store):
    edited = read_text(golden, "README.md").replace("The audio is synthetic.", "The audio is synthetic!").encode()
    golden.write("README.md", edited)
    assert publish(golden).path == "README.musicgen.md"
    assert publish(golden).notes == ()
    assert golden.read("README.md") == edited


@pytest.mark.parametrize("text_of", ["README", "8d16ebc"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_card_of_each_earlier_release_is_told_from_a_changed_one(tmp_path: Path, layout: str, text_of: str):
    dataset = musicgen.dataset.open_dataset(str(shutil.copytree(GOLDEN / layout, tmp_path / layout)))
    runs = run_statuses(dataset)
    path = GOLDEN / layout / "README.md" if text_of == "README" else GOLDEN / "cards" / f"{layout}-{text_of}.md"
    text = path.read_text()
    changes = [
        lambda text: text + "\n",
        lambda text: text.replace("license: apache-2.0", "license: cc-by-4.0"),
        lambda text: text.replace("pretty_name: Generated music", "pretty_name: My music"),
        lambda text: text.replace("# Generated music", "# My music"),
        lambda text: text.replace("- audio\n", ""),
        lambda text: text.replace(" clips, ", "1 clips, "),
        lambda text: text.replace("| 0 |\n", "| 0 | mine\n"),
        lambda text: text.replace("`embedded`", "`embedded` (mine)"),
        lambda text: text.replace("Columns carried over", "Columns, carried over"),
        lambda text: text.replace("split: train", "split: test"),
        lambda text: text.replace("\n", "\r\n"),
        lambda text: text.split("## Runs")[0],
    ]
    build = partial(build_card, dataset, "Generated music")
    for change in changes:
        assert change(text) != text
        assert not is_earlier_card(change(text), dataset, runs, build), change(text)
    assert is_earlier_card(text, dataset, runs, build)


@pytest.mark.parametrize("layout", ["files", "webdataset"])
def test_a_table_of_the_earlier_release_is_told_from_a_changed_one(tmp_path: Path, layout: str):
    store = open_store(str(shutil.copytree(GOLDEN / layout, tmp_path / layout)))
    dataset = musicgen.dataset.open_dataset(store.uri)
    assert choose_table(dataset).foreign == ()
    original = store.read("huggingface.parquet")
    table = pq.read_table(io.BytesIO(original))
    order = list(reversed(range(table.num_rows)))
    for changed in (
        without_one_row(dataset, table),
        table.take(order),
        table.append_column("mine", pa.nulls(table.num_rows)),
        table.drop_columns([table.column_names[1]]),
    ):
        write_parquet(store, "huggingface.parquet", changed)
        assert choose_table(dataset).foreign == ("huggingface.parquet",)
    store.write("huggingface.parquet", original)
    assert choose_table(dataset).foreign == ()


def test_a_large_dataset_of_the_earlier_release(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Its metadata.parquet, which no golden dataset has, is like today's but for the mark."""
    monkeypatch.setattr(huggingface_table, "SMALL_BYTES", 0)
    store = open_store(str(shutil.copytree(GOLDEN / "files", tmp_path / "files")))
    publish(store)
    assert names_at_top(store) == {"README.md", "dataset.json", "metadata.parquet"}
    table = pq.read_table(store.join("metadata.parquet"))
    write_parquet(store, "metadata.parquet", table.replace_schema_metadata(None))
    assert choose_table(musicgen.dataset.open_dataset(store.uri)).foreign == ()
    dataset = musicgen.dataset.open_dataset(store.uri)
    write_parquet(store, "metadata.parquet", without_one_row(dataset, table).replace_schema_metadata(None))
    assert choose_table(dataset).foreign == ("metadata.parquet",)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_other_readers_open_a_dataset_of_the_earlier_release(tmp_path: Path, layout: str):
    """As it is, and after this release has published it."""
    import datasets

    folder = shutil.copytree(GOLDEN / layout, tmp_path / layout)
    dataset = musicgen.dataset.open_dataset(str(folder))
    keys = sorted(dataset.to_arrow(["key"])["key"].to_pylist())
    loaded_keys: list[list[str]] = []
    for cache in ("before", "after"):
        assert sorted(pd.read_parquet(folder / "index")["key"]) == keys
        query = f"SELECT key, prompt, seed FROM read_parquet('{folder}/index/**/*.parquet')"
        assert sorted(row[0] for row in duckdb.sql(query).fetchall()) == keys
        if layout != "parquet":  # its carried columns of type map have no type in `datasets`
            clips = datasets.load_dataset(str(folder), split="train", cache_dir=str(tmp_path / cache))
            loaded_keys.append(sorted(clips["__key__" if layout == "webdataset" else "key"]))
        publish(dataset.store)
    assert all(set(loaded) <= set(keys) for loaded in loaded_keys)  # night 4's run was killed before it was published
    assert loaded_keys[1:] in ([keys], [])
