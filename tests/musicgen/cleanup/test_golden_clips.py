"""Clips of datasets that an earlier release has written (tests/fixtures/golden) are removed and deleted too."""

import shutil
from pathlib import Path

import pytest

from musicgen.cleanup.collection import collect_garbage, find_garbage
from musicgen.dataset import paths
from musicgen.dataset.card import publish_card
from musicgen.dataset.reader import open_dataset
from musicgen.dataset.removal import remove_clips
from musicgen.dataset.verification import verify_dataset
from musicgen.errors import JobError

from .conftest import find_remains

GOLDEN = Path(__file__).parents[2] / "fixtures" / "golden"


@pytest.mark.parametrize("layout", ["files", "parquet", "webdataset"])
def test_a_clip_of_an_earlier_release_is_removed(tmp_path: Path, layout: str):
    dataset = open_dataset(str(shutil.copytree(GOLDEN / layout, tmp_path / layout)))
    before = dataset.to_arrow(["key", "prompt", "run"]).to_pylist()
    prompts = [row["prompt"] for row in before]
    gone = next(row for row in before if prompts.count(row["prompt"]) == 1)
    audio = dataset.audio_bytes(gone["key"])
    assert remove_clips(dataset, [gone["key"]]).changed == [gone["key"]]
    publish_card(dataset)
    assert dataset.to_arrow(["key"]).num_rows == len(dataset) == len(before) - 1
    if layout != "webdataset":  # a run of it is unfinished
        with pytest.raises(JobError, match="a run is unfinished"):
            collect_garbage(dataset)
        assert find_garbage(dataset).unfinished
        assert len(remove_clips(dataset, [gone["key"]], undo=True).changed) == 1
        assert dataset.audio_bytes(gone["key"]) == audio
        return
    report = collect_garbage(dataset, purge_prompts=True)
    assert (report.clips, report.rows, report.failed) == (1, 1, [])
    remains = find_remains(dataset.store, audio, gone["prompt"].encode())
    assert [path for path in remains if not paths.is_plan_failures(path)] == []
    assert verify_dataset(dataset, deep=True).faults == []
    assert len(dataset) == len(before) - 1
