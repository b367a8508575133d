import re

import numpy as np
import pytest

from musicgen.corpus.caption import INSTRUMENT_NAMES, caption_vocabulary, draw_caption
from musicgen.corpus.compose import compose_piece
from musicgen.corpus.score import INSTRUMENTS


@pytest.fixture(scope="module")
def described() -> list:
    rng = np.random.default_rng(0)
    scores = [compose_piece(INSTRUMENTS[n % 6], ("major", "minor")[n % 2], 6.0, rng) for n in range(60)]
    return [(score, draw_caption(score, rng)) for score in scores for _ in range(8)]


def test_captions_are_true(described):
    for score, text in described:
        low = text.lower()
        if found := re.search(r"(\d+) b|tempo (\d+)", low):
            assert int(found[1] or found[2]) == score.tempo_bpm
        assert not ({"major", "minor"} - {score.mode}) & set(re.findall("[a-z]+", low)), text
        if "drum" in low:
            assert score.drums == (re.search(r"\b(no|without) drums", low) is None), text


def test_nearly_every_caption_names_its_instrument_and_none_names_another(described):
    own = {name: {word for phrase in phrases for word in phrase.split()} for name, phrases in INSTRUMENT_NAMES.items()}
    shared = {
        "melody",
        "solo",
        "soft",
        "music",
        "box",
        "wooden",
        "section",
        "church",
        "grand",
        "acoustic",
        "plucked",
        "bowed",
        "nylon",
    }
    named = 0
    for score, text in described:
        words = set(re.findall("[a-z]+", text.lower())) - shared
        named += bool(words & own[score.instrument]) or "music box" in text.lower()
        for other in set(INSTRUMENTS) - {score.instrument}:
            assert not words & (own[other] - shared), text
    assert named / len(described) > 0.9


def test_captions_differ_and_leave_facts_out(described):
    texts = [text for _, text in described]
    assert len(set(texts)) > 0.9 * len(texts)
    for fact in ("bpm|tempo|slow|fast|quick|beats per", "major|minor", "drum|beat"):
        said = np.mean([bool(re.search(fact, text.lower())) for text in texts])
        assert 0.3 < said < 0.97, fact


def test_the_vocabulary_holds_every_word(described):
    known = set(caption_vocabulary())
    for _, text in described:
        assert set(re.findall(r"[A-Za-z][A-Za-z-]*|\d+|[,.;]", text)) <= known, text
