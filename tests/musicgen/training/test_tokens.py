"""Tokens: what the codec and the conditioner would make of the same files, from a folder or a dataset, made once."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile

from musicgen.conditioning.melody import MelodyAnalyzer
from musicgen.model import Checkpoint, load_codec, resolve_checkpoint
from musicgen.request import Request
from musicgen.storage import open_store
from musicgen.training import tokens as module
from musicgen.training.tokens import TokenizedData, make_tokens
from tests.fixtures.random_checkpoint import Sizes, write_checkpoint
from tests.musicgen.dataset.conftest import Maker


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return resolve_checkpoint(write_checkpoint(tmp_path_factory.mktemp("checkpoint"), Sizes(kind="melody"), seed=0))


def _make(data: Path, checkpoint: Checkpoint, folder: Path, processes: int = 1) -> TokenizedData:
    return make_tokens(open_store(str(data)), checkpoint, folder, processes, progress=lambda _: None)


def test_tokens_equal_the_conditions_at_generation(music: Path, checkpoint: Checkpoint, tmp_path: Path) -> None:
    tokens = _make(music, checkpoint, tmp_path / "tokens")
    codec, melodies = load_codec(checkpoint, "cpu"), MelodyAnalyzer(235)
    for row, melody in ((0, "audio/lead.flac"), (1, "audio/1.flac")):
        clip = tokens.clips[row]
        audio, rate = soundfile.read(music / f"audio/{row}.flac", dtype="float32")
        import soxr

        heard = codec.encode(soxr.resample(audio, rate, 32_000, quality="HQ")[None])
        ours = tokens.codes[:, clip["frames_begin"] : clip["frames_end"]]
        assert ours.shape == heard.shape
        assert (ours == heard).mean() > 0.99  # resampled in blocks there
        bins = tokens.pitch_classes[clip["bins_begin"] : clip["bins_end"]]
        assert np.array_equal(
            np.resize(bins, 235), melodies.pitch_classes(Request(prompt="x", melody=str(music / melody)))[0]
        )
        assert clip["prompt"] == f"slow piano number {row}"


def test_tokens_are_reused_unless_the_data_changes(music: Path, checkpoint: Checkpoint, tmp_path: Path) -> None:
    import shutil

    data = tmp_path / "data"
    shutil.copytree(music, data)
    _make(data, checkpoint, tmp_path / "tokens")
    before = (tmp_path / "tokens" / "codes.npy").stat().st_mtime_ns
    _make(data, checkpoint, tmp_path / "tokens")
    assert (tmp_path / "tokens" / "codes.npy").stat().st_mtime_ns == before
    table = pq.read_table(data / "captions.parquet")
    pq.write_table(table.slice(0, 3), data / "captions.parquet")
    assert len(_make(data, checkpoint, tmp_path / "tokens").clips) == 3


@pytest.mark.parametrize("layout", ["files", "parquet", "webdataset"])
def test_a_dataset_of_a_run(checkpoint: Checkpoint, tmp_path: Path, layout: str) -> None:
    maker = Maker(open_store(str(tmp_path / "dataset"))).settings(layout=layout)
    maker.shard(rows=3)
    tokens = make_tokens(maker.store, checkpoint, tmp_path / "tokens", progress=lambda _: None)
    assert [clip["prompt"] for clip in tokens.clips] == ["prompt 0", "prompt 1", "prompt 2"]
    assert tokens.frames_of("train", "valid") == tokens.codes.shape[1] == 3 * 25
    assert not tokens.bad_rows


@pytest.mark.slow
def test_processes_change_nothing(
    music: Path, checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = _make(music, checkpoint, tmp_path / "one")
    monkeypatch.setattr(module, "_ALONE", 1)
    two = _make(music, checkpoint, tmp_path / "two", processes=2)
    assert np.array_equal(one.codes, two.codes)
    assert np.array_equal(one.pitch_classes, two.pitch_classes)
    assert one.bad_rows == two.bad_rows
