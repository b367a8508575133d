"""Each feature is measured where it is present, and not in silence."""

import numpy as np
import pytest

from musicgen.evaluation import features, frechet, key, pitch, tempo
from musicgen.evaluation import pitch_classes as chroma
from tests.musicgen.evaluation import band

NOISE = 0.1 * np.random.default_rng(0).standard_normal(5 * band.RATE).astype(np.float32)
SILENCE = np.zeros(5 * band.RATE, dtype=np.float32)


def _tune(instrument="piano", tonic=0, mode="major", bpm=100.0):
    return band.lead(instrument, tonic, mode, bpm, 5.0).astype(np.float32)


@pytest.mark.parametrize("tonic", [0, 5, 11])
def test_chroma_follows_the_notes(tonic: int) -> None:
    bins = chroma.strongest_classes(chroma.compute_chromagram(_tune(tonic=tonic, bpm=60)))
    beats = [bins[int((i + 0.5) * band.RATE / chroma.HOP)] for i in range(5)]
    assert beats == [(tonic + band.SCALES["major"][degree]) % 12 for degree in band.TUNE[:5]]


def test_faded_notes_are_not_expected_elsewhere() -> None:
    chromagram = chroma.compute_chromagram(_tune(bpm=60))  # pianos fade by 50 dB a second
    silent, faded = chroma.strongest_classes(chromagram) < 0, chroma.clear_classes(chromagram) < 0
    assert not silent.any()
    assert 0.3 < faded.mean() < 0.9


def test_agreement_counts_what_sounds_in_the_melody() -> None:
    melody = np.array([0, 0, 4, -1, 7], dtype=np.int8)
    assert chroma.class_agreement(melody, np.array([0, 1, 4, 9, 7, 7], dtype=np.int8)) == 0.75
    assert chroma.class_agreement(melody, np.array([0, 0], dtype=np.int8)) == 0.5  # what is missing is a miss
    assert np.isnan(chroma.class_agreement(np.full(3, -1, dtype=np.int8), melody))


@pytest.mark.parametrize("instrument", ["organ", "flute"])
def test_the_tracker_ignores_octaves(instrument: str) -> None:
    low, high = pitch.track_pitch(_tune(instrument)), pitch.track_pitch(_tune(instrument, tonic=12))
    other = pitch.track_pitch(_tune(instrument, tonic=6))
    assert pitch.pitch_agreement(low, high) > 0.8
    assert pitch.pitch_agreement(low, other) < 0.2
    assert pitch.pitch_agreement(low, pitch.track_pitch(NOISE)) < 0.1
    assert not np.isfinite(pitch.track_pitch(SILENCE)).any()


@pytest.mark.parametrize("mode", ["major", "minor"])
def test_key_of_a_plain_tune_in_every_key(mode: str) -> None:
    found = [key.estimate_key(chroma.compute_chromagram(_tune("flute", tonic, mode))) for tonic in range(12)]
    assert found == [(tonic, mode) for tonic in range(12)]


def test_silence_has_no_key_no_tempo_and_no_notes() -> None:
    clip = features.extract_features((SILENCE, band.RATE))
    assert (clip.silent, clip.mode, clip.tonic, clip.loudness_lufs) == (True, None, None, None)
    assert np.isnan(clip.tempo_bpm)
    assert (clip.melody.chroma == -1).all()


@pytest.mark.parametrize("bpm", [72.0, 97.0, 140.0])
def test_tempo_of_clicks(bpm: float) -> None:
    assert tempo.tempo_matches(bpm, tempo.estimate_tempo(band.clicks(bpm, 10.0).astype(np.float32)))


def test_tempo_matches_allows_octaves_only_if_asked() -> None:
    assert tempo.tempo_matches(100, 107.9)
    assert not tempo.tempo_matches(100, 109)
    assert tempo.tempo_matches(100, 53)
    assert not tempo.tempo_matches(100, 53, octaves=False)
    assert not tempo.tempo_matches(100, 150)
    assert not tempo.tempo_matches(100, float("nan"))


def test_frechet_is_the_closed_form_for_gaussians() -> None:
    rng = np.random.default_rng(1)
    one, other = rng.standard_normal((20_000, 3)), 2 * rng.standard_normal((20_000, 3)) + np.array([3, 0, 0])
    assert frechet.frechet_distance(one, other) == pytest.approx(9 + 3 * (2 - 1) ** 2, rel=0.03)
    assert frechet.frechet_distance(one, one) == pytest.approx(0, abs=1e-6)
    assert np.isnan(frechet.frechet_distance(one[:1], other))


def test_features_do_not_depend_on_rate_and_channels() -> None:
    import soxr

    tune = _tune("organ")
    double = np.stack([soxr.resample(tune, band.RATE, 32_000)] * 2)
    one, other = features.extract_features((tune, band.RATE)), features.extract_features((double, 32_000))
    assert chroma.class_agreement(one.melody.chroma, other.melody.chroma) > 0.97
    assert (one.mode, one.tonic) == (other.mode, other.tonic)
