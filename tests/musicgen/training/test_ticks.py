"""Ticks: what they are to tell, that a tokenizer puts them before every prompt, and that a text encoder learns them."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, T5Config, T5EncoderModel

from musicgen.corpus.caption import caption_vocabulary
from musicgen.model.checkpoint.resolve import Checkpoint, resolve_checkpoint
from musicgen.model.checkpoint.tensors import Tensors
from musicgen.model.text.encoder import TextEncoder
from musicgen.model.text.tokenizer import load_tokenizer
from musicgen.training import text_pretraining
from musicgen.training.start import ModelSizes, StoredCodec, write_initial_checkpoint
from musicgen.training.ticks import PHASES, TICK_S, tick_ids, tick_phases
from tests.musicgen.training.test_text_pretraining import SIZES

TICKS = 12
SMALL = {
    "hidden": 32,
    "layers": 2,
    "heads": 2,
    "text_hidden": 32,
    "text_layers": 2,
    "text_ffn": 64,
    "vocabulary": 460,
    "positions": 84,
}
SMALL |= {"chroma_length": 14, "ticks": TICKS, "text_length": TICKS + 10}


@pytest.fixture(scope="module")
def codec() -> StoredCodec:
    return StoredCodec.from_checkpoint(resolve_checkpoint("embedded"))


@pytest.fixture(scope="module")
def ticking(codec: StoredCodec, tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """A checkpoint of random weights whose prompts begin with ticks."""
    return write_initial_checkpoint(
        tmp_path_factory.mktemp("ticking") / "start",
        ModelSizes.model_validate(SMALL),
        codec,
        caption_vocabulary(),
        seed=0,
    )


def test_phases_go_round_once_a_beat_in_two_beats_and_in_four() -> None:
    told = tick_phases([60 / (4 * TICK_S)], 17)[0]  # a beat is four ticks
    assert told.shape == (17, PHASES)
    beat, two, bar = (
        [tuple(row) for row in told[:, [level, level + 3]].round(decimals=4).tolist()] for level in range(3)
    )
    assert beat[:5] == [(1, 0), (0, 1), (-1, 0), (0, -1), (1, 0)]
    assert two[4] == (-1, 0)
    assert two[8] == (1, 0)
    assert bar[8] == (-1, 0)
    assert bar[16] == (1, 0)


def test_every_prompt_begins_with_the_ticks_and_numbers_are_whole(ticking: Checkpoint) -> None:
    tokenizer = load_tokenizer(ticking.folder, T5Config())
    ids = tick_ids(tokenizer)
    assert len(ids) == TICKS
    for prompt in ("sad flute, 92 bpm", "Ünheard-of words"):
        found = tokenizer(prompt, truncation=True, max_length=512)["input_ids"]
        assert found[:TICKS] == ids
        assert found[-1] == tokenizer.eos_token_id
        assert not set(found[TICKS:]) & set(ids)
    assert "▁92" in tokenizer.convert_ids_to_tokens(tokenizer("sad flute, 92 bpm")["input_ids"])
    # As transformers' own loader finds it, and when a prompt is too long: the words are cut, never the ticks or the
    # end.
    theirs = AutoTokenizer.from_pretrained(ticking.folder)
    assert theirs("sad flute, 92 bpm")["input_ids"] == tokenizer("sad flute, 92 bpm")["input_ids"]
    cut = tokenizer("flute " * 600, truncation=True, max_length=512)["input_ids"]
    assert len(cut) == 512
    assert cut[:TICKS] == ids
    assert cut[-1] == tokenizer.eos_token_id


def test_an_empty_prompt_has_no_ticks(ticking: Checkpoint) -> None:
    encoder = TextEncoder.load(ticking.folder, ticking.spec, Tensors.open(ticking.folder), torch.device("cpu"))
    assert encoder.encode("").empty
    assert not encoder.encode("").states.any()
    assert encoder.encode("").states.shape == encoder.encode("piano, 92 bpm").states.shape
    assert encoder.encode("piano, 92 bpm").states[:TICKS].any()


def _encoder(tokenizer: Any) -> T5EncoderModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        sizes = SIZES | {"vocab_size": len(tokenizer), "d_ff": 256}
        return T5EncoderModel._from_config(T5Config(**sizes), attn_implementation="eager").eval()


@pytest.mark.slow
def test_an_encoder_learns_where_beats_fall(ticking: Checkpoint) -> None:
    tokenizer = load_tokenizer(ticking.folder, T5Config())
    encoder = _encoder(tokenizer)
    taught = text_pretraining.train_text_encoder(encoder, tokenizer, 0, captions=1_000, steps=20, max_tick_steps=600)
    # By chance one in twelve, the first tick, and of the others 40 ms of a beat of 0.33 to 1 s.
    assert taught.accuracies["beat"] > 0.3, taught.accuracies

    @torch.no_grad()
    def told(prompt: str) -> np.ndarray:
        states = encoder(input_ids=torch.tensor([tokenizer(prompt)["input_ids"]])).last_hidden_state[0]
        return taught.heads["beat"](states)[:TICKS].numpy()

    fast, slow = tick_phases([170.0, 65.0], TICKS).numpy()
    assert np.square(told("piano, 170 bpm") - fast).mean() < np.square(told("piano, 170 bpm") - slow).mean()
    assert np.square(told("piano, 65 bpm") - slow).mean() < np.square(told("piano, 65 bpm") - fast).mean()


def test_a_tick_is_as_long_as_a_pitch_class() -> None:
    assert pytest.approx(2**12 / 32_000) == TICK_S
    assert math.isclose(tick_phases([60.0], 2)[0, 1, 3], math.sin(2 * math.pi * TICK_S), abs_tol=1e-6)
