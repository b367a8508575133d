import numpy as np
import pytest

from musicgen.corpus.compose import compose_piece
from musicgen.corpus.score import HAT, INSTRUMENTS, KICK, Note, Score
from musicgen.corpus.synth import PEAK, render_score
from musicgen.corpus.timbre import RATE_HZ, render_tone
from musicgen.evaluation import tempo


def _spectrum(sound):
    return np.abs(np.fft.rfft(sound * np.hanning(len(sound)), 1 << 16))


@pytest.mark.parametrize("name", INSTRUMENTS)
@pytest.mark.parametrize("pitch", [64, 76, 88])
def test_the_strongest_partial_is_the_note(name, pitch):
    sound = render_tone(name, pitch, RATE_HZ // 2)
    hz = _spectrum(sound).argmax() * RATE_HZ / (1 << 16)
    assert abs(12 * np.log2(hz / 440) + 69 - pitch) < 0.5


@pytest.mark.parametrize("name", INSTRUMENTS)
def test_a_tone_is_sound_and_ends_in_silence(name):
    sound = render_tone(name, 72.0, RATE_HZ // 2)
    assert np.isfinite(sound).all()
    assert 0.1 < np.abs(sound).max() < 1.5
    assert np.abs(sound[-16:]).max() < 1e-2


def test_instruments_differ_in_attack_decay_and_spectrum():
    """No two agree in all of: how soon they are loud, how much is left after half a second, how bright they are."""
    features = {}
    for name in INSTRUMENTS:
        sound = render_tone(name, 72.0, RATE_HZ).astype(np.float64)
        level = np.sqrt(np.convolve(sound**2, np.ones(160) / 160, "same"))
        spectrum = _spectrum(sound) ** 2
        bright = np.sum(spectrum * np.arange(len(spectrum))) / spectrum.sum() * RATE_HZ / (1 << 16)
        rise = np.argmax(level > 0.7 * level.max()) / RATE_HZ
        left = level[RATE_HZ // 2 : RATE_HZ // 2 + 800].mean() / level.max()
        features[name] = np.array([np.log2(rise + 0.01), 2 * left, np.log2(bright)])
    apart = {(a, b): np.abs(features[a] - features[b]).max() for a in features for b in features if a < b}
    assert min(apart.values()) > 0.3, min(apart, key=apart.__getitem__)


def test_a_mix_is_its_lead_and_more_without_clipping():
    for n in range(6):
        score = compose_piece(INSTRUMENTS[n], "minor", 4.0, np.random.default_rng(n))
        mix, lead = render_score(score, 4.0)
        assert len(mix) == len(lead) == 4 * RATE_HZ
        assert np.abs(mix).max() <= PEAK + 1e-6
        assert 0.05 < np.sqrt(np.mean(mix**2)) < 0.2
        assert np.sqrt(np.mean(lead**2)) > np.sqrt(np.mean((mix - lead) ** 2))


def test_the_tempo_can_be_estimated():
    for bpm in (70, 100, 140):
        hits = [Note(i * 60 / bpm, 0.2, KICK if i % 2 else HAT, 1.0, "drums") for i in range(30)]
        lead = [Note(i * 60 / bpm, 0.5, 72 + i % 3) for i in range(30)]
        mix, _ = render_score(Score((*hits, *lead), bpm, 0, "major", "piano", True, "happy", "test"), 10.0)
        assert tempo.tempo_matches(bpm, tempo.estimate_tempo(mix))


def test_a_score_without_notes_is_silence():
    mix, lead = render_score(Score((), 100, 0, "major", "piano", False, "calm", "test"), 1.0)
    assert not mix.any()
    assert not lead.any()
