"""Ticks: what they are to tell, that a tokenizer puts them before every prompt, and that a text encoder learns them."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from transformers import AutoTokenizer, T5Config, T5EncoderModel

from musicgen.errors import UserError
from musicgen.model.checkpoint import Checkpoint, resolve_checkpoint
from musicgen.model.tensors import Tensors
from musicgen.model.text import TextEncoder, load_tokenizer
from musicgen.training import words
from musicgen.training.beats import PHASES, TICK_S, phases, tick_ids
from musicgen.training.corpus.caption import vocabulary
from musicgen.training.start import CodecParts, Sizes, write_start
from tests.musicgen.training.test_words import SIZES

TICKS = 12
SMALL = {"hidden": 32, "layers": 2, "heads": 2, "text_hidden": 32, "text_layers": 2, "text_ffn": 64, "vocabulary": 460, "positions": 84}
SMALL |= {"chroma_length": 14, "ticks": TICKS, "text_length": TICKS + 10}


@pytest.fixture(scope="module")
def codec() -> CodecParts:
    return CodecParts.of(resolve_checkpoint("embedded"))


@pytest.fixture(scope="module")
def ticking(codec: CodecParts, tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """A checkpoint of random weights whose prompts begin with ticks."""
    return write_start(tmp_path_factory.mktemp("ticking") / "start", Sizes.model_validate(SMALL), codec, vocabulary(), seed=0)


def test_phases_go_round_once_a_beat_in_two_beats_and_in_four() -> None:
    told = phases([60 / (4 * TICK_S)], 17)[0]  # a beat is four ticks
    assert told.shape == (17, PHASES)
    beat, two, bar = ([tuple(row) for row in told[:, [level, level + 3]].round(decimals=4).tolist()] for level in range(3))
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
    # As transformers' own loader finds it, and when a prompt is too long: the words are cut, never the ticks or the end.
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


def test_an_encoder_learns_where_beats_fall(ticking: Checkpoint) -> None:
    tokenizer = load_tokenizer(ticking.folder, T5Config())
    encoder = _encoder(tokenizer)
    taught = words.teach(encoder, tokenizer, 0, captions=1_000, steps=20, drill=600)
    # By chance one in twelve, the first tick, and of the others 40 ms of a beat of 0.33 to 1 s.
    assert taught.found["beat"] > 0.3, taught.found

    @torch.no_grad()
    def told(prompt: str) -> np.ndarray:
        states = encoder(input_ids=torch.tensor([tokenizer(prompt)["input_ids"]])).last_hidden_state[0]
        return taught.heads["beat"](states)[:TICKS].numpy()

    fast, slow = phases([170.0, 65.0], TICKS).numpy()
    assert np.square(told("piano, 170 bpm") - fast).mean() < np.square(told("piano, 170 bpm") - slow).mean()
    assert np.square(told("piano, 65 bpm") - slow).mean() < np.square(told("piano, 65 bpm") - fast).mean()


def test_an_older_decoder_is_taken_over_and_reads_the_new_text_as_its_own(ticking: Checkpoint, codec: CodecParts, tmp_path: Path) -> None:
    heads = {"before": nn.Linear(32, 32), "beat": nn.Linear(32, PHASES)}
    asked: list[torch.Tensor] = []

    def lessons(encoder: T5EncoderModel, tokenizer: object, before: words.Before) -> words.Taught:
        asked.append(before(["piano", "a sad flute, 92 bpm"]))
        return words.Taught({}, heads)

    new = write_start(tmp_path / "new", Sizes.model_validate(SMALL | {"of": str(ticking.folder)}), codec, vocabulary(), 3, lessons=lessons)
    older, newer = (Tensors.open(checkpoint.folder).view("", "cpu", torch.float32) for checkpoint in (ticking, new))
    for name in older:
        if name.startswith(("decoder.", "audio_enc_to_dec_proj.")):
            assert torch.equal(older[name], newer[name]), name
    assert not torch.equal(older["text_encoder.shared.weight"], newer["text_encoder.shared.weight"])
    # What was asked of the older text encoder is its state at the end of a text.
    encoder = TextEncoder.load(ticking.folder, ticking.spec, Tensors.open(ticking.folder), torch.device("cpu"))
    assert torch.allclose(asked[0][1], encoder.embedder("a sad flute, 92 bpm")[-1], atol=1e-5)
    # What the decoder reads of a state is what it read of the state that is told by it, and phases besides.
    state = torch.randn(32)
    read = newer["enc_to_dec_proj.weight"] @ state + newer["enc_to_dec_proj.bias"]
    own = older["enc_to_dec_proj.weight"] @ heads["before"](state) + older["enc_to_dec_proj.bias"]
    assert not torch.allclose(read, own, atol=1e-3)
    directions = 0.5 * torch.randn(32, PHASES, generator=torch.Generator().manual_seed(3))
    assert torch.allclose(read, own + directions @ heads["beat"](state), atol=1e-4)


def test_an_encoder_learns_to_tell_what_another_told(ticking: Checkpoint) -> None:
    """The other: whether there are drums, and whether the key is minor."""

    def before(texts: list[str]) -> torch.Tensor:
        return torch.tensor([["drum" in text, "minor" in text] for text in texts]).float()

    tokenizer = load_tokenizer(ticking.folder, T5Config())
    encoder = _encoder(tokenizer)
    taught = words.teach(encoder, tokenizer, 0, captions=1_000, steps=250, drill=0, before=before)
    with torch.no_grad():
        asked = [torch.tensor([tokenizer(text)["input_ids"]]) for text in ("piano, drums", "minor organ")]
        states = [encoder(input_ids=ids).last_hidden_state[0] for ids in asked]
        one, other = (taught.heads["before"](state) for state in states)
    assert one[-1, 0] > other[-1, 0] + 0.3
    assert other[-1, 1] > one[-1, 1] + 0.3
    assert one[:TICKS, 0].abs().mean() < 0.5 * one[-1, 0]  # a tick tells nothing of it


def test_an_older_checkpoint_of_other_sizes_is_refused(ticking: Checkpoint, codec: CodecParts, tmp_path: Path) -> None:
    sizes = Sizes.model_validate(SMALL | {"of": str(ticking.folder), "layers": 3})
    with pytest.raises(UserError, match=r"model.of: .* has layers 2, the recipe's model 3"):
        write_start(tmp_path / "new", sizes, codec, vocabulary(), seed=0)
    assert not (tmp_path / "new").exists()


def test_a_tick_is_as_long_as_a_pitch_class() -> None:
    assert pytest.approx(2**12 / 32_000) == TICK_S
    assert math.isclose(phases([60.0], 2)[0, 1, 3], math.sin(2 * math.pi * TICK_S), abs_tol=1e-6)
