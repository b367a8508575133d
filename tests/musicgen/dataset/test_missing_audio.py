"""A clip whose audio file is gone is left out and named, and harms no other clip."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest

import musicgen.dataset
from musicgen.dataset.card import publish_card
from musicgen.dataset.missing_audio import find_missing_audio

from .conftest import Maker


@pytest.mark.parametrize("layout", ["files", "webdataset", "parquet"])
def test_a_dataset_is_published_without_a_missing_clip(make: Maker, layout: str) -> None:
    make = make.settings(layout=layout)
    make.shard(shard=0)
    make.shard(shard=1)
    dataset = musicgen.dataset.open_dataset(make.store.uri)
    assert publish_card(dataset).unreadable == ()
    assert find_missing_audio(dataset) == []
    if layout == "parquet":
        return
    audio_files = sorted(set(dataset.to_arrow(["audio"])["audio"].to_pylist()))
    Path(make.store.join(audio_files[0])).unlink()
    clips_in_it = dataset.to_arrow(["audio"])["audio"].to_pylist().count(audio_files[0])
    card = publish_card(dataset)
    assert set(card.unreadable) == {audio_files[0]}
    assert find_missing_audio(dataset) == [audio_files[0]]
    assert find_missing_audio(dataset, most_rows=5) == []
    assert pq.read_table(make.store.join("huggingface.parquet")).num_rows == 6 - clips_in_it
    with pytest.raises(FileNotFoundError):
        dataset.cells(dataset.to_arrow())
