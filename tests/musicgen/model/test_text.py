"""Prompts to states: equal to transformers', and a function of the prompt alone."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer, MusicgenForConditionalGeneration, T5Config, T5EncoderModel

from musicgen import embedded
from musicgen.errors import ModelError
from musicgen.model.checkpoint.tensors import Tensors
from musicgen.model.spec_reader import read_spec
from musicgen.model.text.encoder import TextEncoder
from musicgen.model.text.t5_embedder import MAX_TOKENS, T5Embedder
from musicgen.model.text.tokenizer import FileTokenizer, TokenCount, open_tokenizer
from tests.fixtures.checkpoints import write_tokenizer

EMBEDDED = Path(embedded.__file__).parent / "checkpoint"
PROMPTS = [
    "warm lo-fi piano, 80 bpm",
    "a",
    "driving techno with a heavy kick and a deep bass drone in the night",
    "ünïcode 🎹 ok",
]


class StubEmbedder:
    """An embedder that calls a function."""

    def __init__(self, embed: Callable[[str], Any]):
        self._embed = embed

    def __call__(self, prompt: str) -> Any:
        return self._embed(prompt)

    def expect(self, prompt: str) -> None:
        pass

    def count_tokens(self, prompt: str) -> TokenCount:
        return TokenCount()


@pytest.fixture(scope="module")
def encoder(text_checkpoint: Path) -> TextEncoder:
    return load(text_checkpoint)


def load(folder: Path) -> TextEncoder:
    return TextEncoder.load(folder, read_spec(folder), Tensors.open(folder), torch.device("cpu"))


def test_states_equal_transformers(encoder: TextEncoder, text_checkpoint: Path) -> None:
    reference = MusicgenForConditionalGeneration.from_pretrained(text_checkpoint).eval()
    tokenizer = AutoTokenizer.from_pretrained(text_checkpoint)
    for prompt in PROMPTS:
        with torch.no_grad():
            expected = reference.enc_to_dec_proj(
                reference.text_encoder(**tokenizer(prompt, return_tensors="pt")).last_hidden_state
            )[0]
        states = encoder.encode(prompt).states
        assert states.shape == expected.shape
        torch.testing.assert_close(states, expected, atol=3e-6, rtol=1e-5)


def test_states_depend_on_the_prompt_alone(text_checkpoint: Path) -> None:
    forward, backward = load(text_checkpoint), load(text_checkpoint)
    first = {prompt: forward.encode(prompt).states for prompt in PROMPTS}
    for prompt in reversed(PROMPTS):
        assert torch.equal(backward.encode(prompt).states, first[prompt])


def test_a_prompt_is_encoded_once(text_checkpoint: Path) -> None:
    encoder = load(text_checkpoint)
    calls = []
    embed = encoder.embedder.__call__
    encoder.embedder = StubEmbedder(lambda prompt: calls.append(prompt) or embed(prompt))
    assert encoder.encode("piano") is encoder.encode("piano")
    assert calls == ["piano"]
    for i in range(300):
        encoder.encode(f"piano {i}")
    assert len(encoder._memo) < 300  # memory is bounded
    encoder.encode("piano")
    assert calls.count("piano") == 2


@pytest.mark.parametrize("prompt", ["", "  \n"])
def test_an_empty_prompt_is_the_null_condition(encoder: TextEncoder, prompt: str) -> None:
    text = encoder.encode(prompt)
    assert text.empty
    assert text.states.shape == (1, 32)
    assert not text.states.any()


def test_long_prompts_are_cut(encoder: TextEncoder) -> None:
    long = " ".join(["piano"] * 2000)
    assert encoder.encode(long).states.shape[0] == MAX_TOKENS
    assert torch.equal(encoder.encode(long).states, encoder.encode(long + " violin").states)


def test_tokens_are_counted_before_the_cut_and_those_that_are_unknown(
    encoder: TextEncoder, text_checkpoint: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(text_checkpoint)
    for prompt in [*PROMPTS, " ".join(["piano"] * 2000), "漢字 🎹 𝄞"]:
        ids = [int(token) for token in tokenizer(prompt, return_tensors="np", truncation=False)["input_ids"][0]]
        expected = TokenCount(len(ids), sum(token == tokenizer.unk_token_id for token in ids))
        caplog.clear()
        assert encoder.encode(prompt).tokens == expected
        assert not caplog.records  # transformers warns of prompts beyond the model's longest
    assert encoder.encode(" ".join(["piano"] * 2000)).tokens.total > MAX_TOKENS
    assert encoder.encode("漢字 🎹 𝄞").tokens.unknown > 0
    assert encoder.encode("").tokens == TokenCount(0, 0)


@pytest.mark.parametrize("feed_forward", ["relu", "gated-gelu", "gated-silu"])
def test_states_have_the_bits_of_transformers(tmp_path: Path, feed_forward: str) -> None:
    """T5 and FLAN-T5, which is configuration, for a short prompt and some beyond the largest distance."""
    from safetensors.torch import save_file

    config = T5Config(
        vocab_size=400,
        d_model=24,
        d_kv=8,
        d_ff=48,
        num_layers=2,
        num_heads=4,
        relative_attention_num_buckets=12,
        relative_attention_max_distance=40,
        feed_forward_proj=feed_forward,
        tie_word_embeddings=False,
    )
    torch.manual_seed(5)
    reference = T5EncoderModel._from_config(config, attn_implementation="eager").eval()
    # Its token table under the other of its two names.
    weights = {
        f"text_encoder.{name}": value.clone()
        for name, value in reference.state_dict().items()
        if name != "shared.weight"
    }
    weights["text_encoder.encoder.embed_tokens.weight"] = reference.shared.weight.detach().clone()
    save_file(weights, tmp_path / "model.safetensors")
    write_tokenizer(tmp_path, 400)
    embedder = T5Embedder.load(tmp_path, config.to_dict(), Tensors.open(tmp_path), torch.device("cpu"))
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    for prompt in ("funky bass", "a b c " * 20, "piano " * 600):
        limits = {"truncation": True, "max_length": MAX_TOKENS, "padding": True, "pad_to_multiple_of": 16}
        tokens = tokenizer(prompt, return_tensors="pt", **limits)
        with torch.inference_mode():
            expected = reference(**tokens).last_hidden_state[0, : int(tokens["attention_mask"].sum())]
            assert torch.equal(embedder(prompt), expected), prompt


def test_an_encoder_that_the_config_does_not_describe(text_checkpoint: Path, tmp_path: Path) -> None:
    config = json.loads((text_checkpoint / "config.json").read_text())["text_encoder"]
    tensors = Tensors.open(text_checkpoint)
    for changed, reason in (
        ({"d_ff": 7}, r"wi.weight has the shape .*, its config says \(7, "),
        ({"num_layers": 9}, "lacks the tensor encoder.block"),
        ({"feed_forward_proj": "gated-tanh"}, "'gated-tanh' is not supported; it must be one of relu"),
    ):
        with pytest.raises(ModelError, match=reason):
            T5Embedder.load(tmp_path, config | changed, tensors, torch.device("cpu"))


def test_tokens_are_those_of_transformers(text_checkpoint: Path) -> None:
    """`tokenizer.json` of the embedded model is read without transformers, which the other one needs."""
    for folder, is_file in ((EMBEDDED, True), (text_checkpoint, False)):
        tokenizer, ours = AutoTokenizer.from_pretrained(folder), open_tokenizer(folder, {"model_type": "t5"})
        assert isinstance(ours, FileTokenizer) == is_file
        assert ours.unknown_id == tokenizer.unk_token_id
        for prompt in [*PROMPTS, "", " two  spaces ", "</s> and <unk>", "漢字 𝄞", "piano " * 600]:
            assert ours(prompt) == tokenizer(prompt, verbose=False)["input_ids"]
            assert ours(prompt, 512) == tokenizer(prompt, truncation=True, max_length=512)["input_ids"]


def test_a_checkpoint_without_tokenizer(text_checkpoint: Path, tmp_path: Path) -> None:
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).symlink_to(text_checkpoint / name)
    with pytest.raises(ModelError, match="no tokenizer"):
        load(tmp_path)


def test_states_on_a_gpu_are_computed_before_they_are_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another thread's stream does not wait for the one that computes; there is no GPU here, so the order is what is
    tested.
    """
    known: list[bool] = []
    states = SimpleNamespace(is_cuda=True, device="cuda:0")
    encoder = TextEncoder(StubEmbedder(lambda prompt: states), None, 8)
    stream = SimpleNamespace(synchronize=lambda: known.append("piano" in encoder._memo))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: stream)
    assert encoder.encode("piano").states is states
    assert encoder.encode("piano").states is states
    assert known == [False]
