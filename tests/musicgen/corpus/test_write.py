import hashlib
import json

import pyarrow.parquet as pq
import pytest
import soundfile

from musicgen.corpus import write_corpus
from musicgen.evaluation import examples as material

CLIPS, SECONDS = 6, 2.0


def _digest(folder):
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return write_corpus(tmp_path_factory.mktemp("corpus"), CLIPS, seed=3, seconds=SECONDS, processes=1, tunes=0)


def test_the_same_command_makes_the_same_bytes_by_any_number_of_processes(corpus, tmp_path):
    assert _digest(write_corpus(tmp_path, CLIPS, seed=3, seconds=SECONDS, processes=2, tunes=0)) == _digest(corpus)


def test_a_killed_run_goes_on(corpus, tmp_path):
    write_corpus(tmp_path, CLIPS, seed=3, seconds=SECONDS, processes=1, tunes=0)
    kept = tmp_path / "audio" / "000001.flac"
    before = kept.stat().st_mtime_ns
    for path in ("captions.parquet", "audio/000003.flac", "melody/000005.flac"):
        (tmp_path / path).unlink()
    write_corpus(tmp_path, CLIPS, seed=3, seconds=SECONDS, processes=1, tunes=0)
    assert _digest(tmp_path) == _digest(corpus)
    assert kept.stat().st_mtime_ns == before  # what was there is not made again


def test_another_corpus_is_refused(corpus):
    with pytest.raises(ValueError, match="holds another corpus"):
        write_corpus(corpus, CLIPS, seed=4, seconds=SECONDS, tunes=0)


def test_the_captions_lead_to_the_sounds(corpus):
    rows = pq.read_table(corpus / "captions.parquet").to_pylist()
    assert len(rows) == CLIPS
    for row in rows:
        for place in (row["audio"], row["melody"]):
            info = soundfile.info(corpus / place)
            assert (info.samplerate, info.channels, info.frames) == (16_000, 1, 32_000)
        assert row["prompt"]
    assert len({row["instrument"] for row in rows}) == 6
    assert len(material.read_examples(corpus)) == CLIPS


def test_public_tunes_are_in_their_split(tmp_path):
    from musicgen.corpus.tune import Tune

    notes = [(float(i), 1.0, pitch) for i, pitch in enumerate((60, 62, 64, 65, 67, 64, 60, 60) * 4)]
    tune = Tune("folk/one", 0, "major", 4, tuple(notes))
    (tmp_path / "tunes.json").write_text(json.dumps({"count": 1, "tunes": [tune.to_json()]}))
    write_corpus(tmp_path, CLIPS, seed=1, seconds=1.0, processes=1, tunes=1)
    rows = [row for row in pq.read_table(tmp_path / "captions.parquet").to_pylist() if row["tune"] == "folk/one"]
    assert rows
    assert {row["split"] for row in rows} == {tune.split}
