from itertools import pairwise

import numpy as np
import pytest

from musicgen.corpus.arrange import draw_arrangement
from musicgen.corpus.clarity import key_is_clear
from musicgen.corpus.compose import compose_piece
from musicgen.corpus.harmony import Chord, harmonize_melody
from musicgen.corpus.score import INSTRUMENTS, SCALES, Note, Score


def _score(n: int, seconds: float = 10.0) -> Score:
    return compose_piece(INSTRUMENTS[n % 6], ("major", "minor")[n % 2], seconds, np.random.default_rng(n))


@pytest.mark.parametrize("n", range(12))
def test_a_piece_stays_in_its_key_and_its_range(n):
    score = _score(n)
    scale = {(score.tonic + step) % 12 for step in SCALES[score.mode]} | (
        {(score.tonic + 11) % 12} if score.mode == "minor" else set()
    )
    for note in score.notes:
        if note.voice != "drums":
            assert round(note.pitch) % 12 in scale
    assert all(60 <= note.pitch <= 92 for note in score.voice_notes("lead"))


def test_the_lead_lasts_and_overlaps_nothing():
    for n in range(12):
        lead = _score(n).voice_notes("lead")
        assert lead[-1].onset_s > 6
        assert all(a.onset_s + a.duration_s <= b.onset_s + 1e-9 for a, b in pairwise(lead))


def test_motifs_come_back():
    """The rhythm of four bars repeats in the next four, in 3/4 and 4/4, and has more than one note length."""
    for n in range(6):
        score = _score(n, 40.0)
        beats = [round(note.onset_s * score.tempo_bpm / 60, 3) for note in score.voice_notes("lead")]

        def rhythm(start: int, length: int, beats: list[float] = beats) -> list[float]:
            return [round(beat - start, 3) for beat in beats if start <= beat < start + length]

        assert any(rhythm(0, length) == rhythm(length, length) for length in (12, 16))
        assert len({note.pitch for note in score.voice_notes("lead")}) >= 4


def test_drums_strike_on_the_beat():
    score = next(score for n in range(40) if (score := _score(n)).drums)
    beats = np.array([note.onset_s for note in score.voice_notes("drums")]) * score.tempo_bpm / 60
    assert np.allclose(beats * 2, np.round(beats * 2))
    assert set(range(8)) <= set(np.round(beats, 6))  # something on every beat


def test_most_pieces_have_a_clear_key():
    assert np.mean([key_is_clear(_score(n)) for n in range(30)]) > 0.9


def test_a_scale_of_the_relative_key_is_not_clear():
    score = Score(
        tuple(Note(i * 0.5, 0.5, p) for i, p in enumerate((60, 64, 67, 72))),
        120,
        9,
        "minor",
        "piano",
        False,
        "sad",
        "test",
    )
    assert not key_is_clear(score)


def test_a_melody_is_harmonised_by_the_chords_that_it_outlines():
    melody = [(float(i), 1.0, pitch) for i, pitch in enumerate((60, 64, 67, 60, 67, 71, 74, 67, 65, 69, 72, 65))]
    assert [chord.degree for chord in harmonize_melody(melody, 12, 4, 0, "major")] == [0, 4, 3]


def test_the_dominant_of_a_minor_key_has_its_leading_tone():
    assert [p % 12 for p in Chord(0, 4, 4).pitches(9, "minor")] == [4, 8, 11]  # E major in A minor


def test_plans_span_the_tempi():
    rng = np.random.default_rng(0)
    tempi = [draw_arrangement(rng, "piano", "major").tempo_bpm for _ in range(300)]
    assert 60 <= min(tempi) < 66
    assert 165 < max(tempi) <= 180
