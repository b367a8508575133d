"""The lines of docs/reading.md work: its code blocks are what is run here."""

import re
from pathlib import Path

import duckdb
import pytest
import s3fs

import musicgen.dataset
from musicgen.dataset.card import publish_card
from musicgen.storage import open_store

from .conftest import Maker

PAGE = (Path(__file__).parents[3] / "docs" / "reading.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
SLOW = {"datasets", "torch", "pyspark", "polars"}  # whose import takes seconds
LAYOUTS = {"demo": "files", "parquet": "parquet", "tars": "webdataset"}


def modules_of(code: str) -> set[str]:
    return set(re.findall(r"^(?:import|from) (\w+)", code, re.MULTILINE))


def params() -> list:
    return [
        pytest.param(
            code,
            id=f"{number}-{'-'.join(sorted(modules_of(code)))}",
            marks=[pytest.mark.slow] if modules_of(code) & SLOW else [],
        )
        for number, code in enumerate(BLOCKS)
    ]


def forget_listings() -> None:
    """Forget what a process keeps as long as it lives: DuckDB its file systems, s3fs what it has listed."""
    if "s3" in duckdb.list_filesystems():
        duckdb.unregister_filesystem("s3")
    s3fs.S3FileSystem.clear_instance_cache()


def add_shard(uri: str, layout: str, shard: int) -> None:
    Maker(open_store(uri)).settings(layout=layout).shard(shard=shard)
    publish_card(musicgen.dataset.open_dataset(uri))


@pytest.mark.parametrize("code", params())
def test_the_lines_work(
    code: str, tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in modules_of(code):
        pytest.importorskip(module)
    monkeypatch.chdir(tmp_path)
    if "datasets" in modules_of(code):
        import datasets.config

        monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
        monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)  # it keeps from S3, too
    places = {str(tmp_path / "out" / name): layout for name, layout in LAYOUTS.items() if f"out/{name}" in code}
    if "s3://bucket/demo" in code:
        uri = request.getfixturevalue("s3").uri
        code = code.replace("s3://bucket/demo", uri)
        places[uri] = "files"
    for shard in range(2):  # the second time they must give what has been added
        forget_listings()
        for uri, layout in places.items():
            add_shard(uri, layout, shard)
        values: dict[str, object] = {}
        exec(code, values)
        clips = values.get("clips")
        assert clips is None or count(clips) in (None, 3 * shard + 3)
        assert "prompt" not in values or str(values["prompt"]).startswith("prompt ")
        assert "content" not in values or bytes(values["content"])[:4] == b"fLaC"
        assert "rows" not in values or len(values["rows"]) == 3 * shard + 3
    forget_listings()


def count(clips: object) -> int | None:
    """The number of rows, where the library's object knows it."""
    if type(clips).__module__.startswith("pyspark"):
        return clips.count()
    return len(clips) if hasattr(clips, "__len__") else None


def test_the_page_has_a_block_for_every_library_that_it_names() -> None:
    libraries = set.union(*map(modules_of, BLOCKS))
    assert libraries >= {
        "musicgen",
        "datasets",
        "duckdb",
        "pandas",
        "pyarrow",
        "polars",
        "pyspark",
        "webdataset",
        "torch",
    }
