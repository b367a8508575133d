import json
from itertools import pairwise

import numpy as np
import pytest

from musicgen.corpus.music21_tunes import load_tunes, read_tunes
from musicgen.corpus.tune import Tune, play_tune

PITCHES = (60, 60, 67, 67, 69, 69, 67, 65, 65, 64, 64, 62, 62, 60)
LENGTHS = (1, 1, 1, 1, 1, 1, 2, 1, 1, 1, 1, 1, 1, 2)
NOTES = tuple((float(sum(LENGTHS[:i])), float(LENGTHS[i]), PITCHES[i]) for i in range(len(PITCHES)))
TUNE = Tune("folk/star", 0, "major", 4, NOTES)


def test_a_tune_is_played_in_time_and_transposed_as_a_whole():
    score = play_tune(TUNE, "flute", 8.0, np.random.default_rng(1))
    assert score is not None
    lead = score.voice_notes("lead")
    beat = 60 / score.tempo_bpm
    at = [note.onset_s / beat for note in lead]
    assert np.allclose(at, np.round(at))
    shifts = {round(note.pitch) - 60 - score.tonic for note in lead if round(note.pitch) % 12 == score.tonic}
    assert all(shift % 12 == 0 for shift in shifts)
    assert len(lead) * beat > 4  # it begins again where it is short
    assert score.source == "folk/star"


def test_a_tune_is_always_in_the_same_split():
    names = [f"ryan/tune {n}" for n in range(400)]
    splits = [Tune(name, 0, "major", 4, NOTES).split for name in names]
    assert splits == [Tune(name, 5, "minor", 3, NOTES).split for name in names]
    assert 0.7 < splits.count("train") / 400 < 0.9
    assert min(splits.count("test"), splits.count("valid")) > 5


def test_known_tunes_are_read_from_their_cache(tmp_path):
    (tmp_path / "tunes.json").write_text(json.dumps({"count": 1, "tunes": [TUNE.to_json()]}))
    assert load_tunes(tmp_path / "tunes.json", 1, on_message=pytest.fail) == [TUNE]


def test_music21_ships_the_tunes():
    """A few of each collection; all of them take a minute."""
    tunes = read_tunes(6)
    assert {tune.name.split("/")[0] for tune in tunes} == {"bach", "ryan", "essen"}
    for tune in tunes:
        assert len({pitch for _, _, pitch in tune.notes}) >= 4
        assert all(a[0] < b[0] for a, b in pairwise(tune.notes))
        assert tune.beats_per_bar in (2, 3, 4)
