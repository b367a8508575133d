"""The text encoder learns facts from captions, reproducibly."""

from pathlib import Path

import pytest
import torch
from transformers import T5Config, T5EncoderModel

from musicgen.corpus.score import Score
from musicgen.model.text.tokenizer import load_tokenizer
from musicgen.training.caption_facts import CaptionFacts
from musicgen.training.text_pretraining import train_text_encoder
from tests.fixtures.random_checkpoint import write_tokenizer

SIZES = {"vocab_size": 400, "d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4, "dropout_rate": 0.0}


def _encoder(seed: int) -> T5EncoderModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return T5EncoderModel._from_config(T5Config(**SIZES), attn_implementation="eager").eval()


def test_instruments_are_learned_first_and_reproducibly(tmp_path: Path) -> None:
    write_tokenizer(tmp_path, 400)
    encoders = [_encoder(1) for _ in range(2)]
    said: list[str] = []
    found = [
        train_text_encoder(encoder, load_tokenizer(tmp_path, encoder.config), 0, said.append, captions=2_000, steps=60)
        for encoder in encoders
    ]
    assert found[0].accuracies == found[1].accuracies
    assert found[0].accuracies["instrument"] > 0.5  # one in six by chance
    assert "instrument" in said[-1]
    for one, other in zip(*(encoder.parameters() for encoder in encoders), strict=True):
        assert torch.equal(one, other)


def test_facts_of_a_score() -> None:
    facts = CaptionFacts.from_scores(
        [
            Score((), 60.0, 9, "minor", "flute", False, "sad", "composed"),
            Score((), 180.0, 2, "major", "bell", True, "happy", ""),
        ]
    )
    assert facts.instrument.argmax(1).tolist() == [3, 5]
    assert facts.tempo.argmax(1).tolist() == [0, 31]
    assert facts.tempo.sum(1).tolist() == pytest.approx([1, 1])
    assert facts.key.argmax(1).tolist() == [9 + 12, 2]
    assert facts.scale[0].nonzero().flatten().tolist() == [0, 2, 4, 5, 7, 9, 11]  # A minor has the notes of C major
    assert facts.scale[1].nonzero().flatten().tolist() == [1, 2, 4, 6, 7, 9, 11]
    assert facts.drums.argmax(1).tolist() == [0, 1]
