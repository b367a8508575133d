"""Prompts are encoded beside each other, and each comes out as if it were alone."""

from collections.abc import Sequence
from pathlib import Path
from threading import Thread

import pytest
import torch
from torch import Tensor

from musicgen.conditioning.conditioner import RequestConditioner
from musicgen.engine.engine import Engine
from musicgen.model.load import load_model
from musicgen.model.text.encoder import TextEncoder
from musicgen.model.text.prompt_batches import PromptBatches
from musicgen.model.text.t5_embedder import T5Embedder
from musicgen.request import Request

SHORT = [f"piano {number}" for number in range(11)]
LONG = [f"a slow waltz for strings and a distant choir in a very large hall, take {number}" for number in range(3)]


@pytest.fixture
def encoder(text_checkpoint: Path) -> TextEncoder:
    return load_model(str(text_checkpoint)).text


def count_batches(embedder: T5Embedder, monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Prompts and rows of each call of the encoder from now on."""
    batches = []
    embed_all = embedder.embed_all

    def note(prompts: Sequence[list[int]], rows: int) -> list[Tensor]:
        batches.append((len(prompts), rows))
        return embed_all(prompts, rows)

    monkeypatch.setattr(embedder, "embed_all", note)
    return batches


def test_expected_prompts_of_a_length_share_batches_of_one_shape(
    encoder: TextEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = {prompt: encoder.encode(prompt).states for prompt in SHORT + LONG}
    encoder._memo._results.clear()
    assert isinstance(encoder.embedder, T5Embedder)  # on a CPU each is encoded by itself
    batches = count_batches(encoder.embedder, monkeypatch)
    encoder.embedder = PromptBatches(encoder.embedder)
    for prompt in [*SHORT, *LONG, "", SHORT[0]]:
        encoder.expect(prompt)
    for prompt in reversed(SHORT + LONG):
        torch.testing.assert_close(encoder.encode(prompt).states, alone[prompt], atol=1e-6, rtol=1e-5)
    assert batches == [(3, 8), (8, 8), (3, 8)]
    assert len(encoder.embedder._ready) == 0


def test_a_prompt_that_nobody_told_of_is_encoded_all_the_same(
    encoder: TextEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    embedder = encoder.embedder
    assert isinstance(embedder, T5Embedder)

    def repeat_tokens(tokens: Tensor, lengths: Tensor) -> Tensor:  # whose bits depend on the prompt alone everywhere
        return tokens[..., None].float().expand(-1, -1, 4)

    repeat_tokens.device = embedder.model.device
    monkeypatch.setattr(embedder, "model", repeat_tokens)
    batches = count_batches(embedder, monkeypatch)
    prompts = PromptBatches(embedder)
    alone = [prompts(prompt) for prompt in SHORT[:2]]
    assert batches == [(1, 8), (1, 8)]
    for prompt in SHORT:
        prompts.expect(prompt)
    assert all(map(torch.equal, alone, [prompts(prompt) for prompt in SHORT[:2]]))
    assert batches[2:] == [(8, 8)]
    assert prompts.check_reproducible()


def test_a_device_whose_bits_depend_on_the_row_is_seen(encoder: TextEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    embedder = encoder.embedder
    assert isinstance(embedder, T5Embedder)
    model = embedder.model

    def shift_by_row(tokens: Tensor, lengths: Tensor) -> Tensor:
        return model(tokens, lengths) + 1e-6 * torch.arange(len(tokens))[:, None, None]

    def shift_by_others(tokens: Tensor, lengths: Tensor) -> Tensor:
        return model(tokens, lengths) + 1e-6 * lengths.sum()

    for shift in (shift_by_row, shift_by_others):
        monkeypatch.setattr(embedder, "model", shift)
        shift.device = model.device
        assert not PromptBatches(embedder).check_reproducible()


def test_prompts_that_are_never_asked_for_are_forgotten(encoder: TextEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("musicgen.model.text.prompt_batches._MAX_READY", 4)
    monkeypatch.setattr("musicgen.model.text.prompt_batches._MAX_EXPECTED", 9)
    assert isinstance(encoder.embedder, T5Embedder)
    batches = PromptBatches(encoder.embedder)
    encoder.embedder = batches
    for number in range(60):
        encoder.expect(f"piano {number}")
        if number % 7 == 0:
            encoder.encode(f"violin {number}")
    assert len(batches._ready) <= 4 + 7
    assert max(map(len, batches._expected.values())) <= 9


def test_several_threads_get_their_own_prompts(encoder: TextEncoder) -> None:
    alone = {prompt: encoder.encode(prompt).states for prompt in SHORT}
    encoder._memo._results.clear()
    assert isinstance(encoder.embedder, T5Embedder)
    encoder.embedder = PromptBatches(encoder.embedder)
    found: dict[str, Tensor] = {}

    def encode(prompts: list[str]) -> None:
        for prompt in prompts:
            found[prompt] = encoder.encode(prompt).states

    for prompt in SHORT:
        encoder.expect(prompt)
    threads = [Thread(target=encode, args=(SHORT[start::2],)) for start in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for prompt, states in alone.items():
        torch.testing.assert_close(found[prompt], states, atol=1e-6, rtol=1e-5)


def test_an_engine_tells_of_the_prompts_that_wait(text_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load_model(str(text_checkpoint))
    assert isinstance(model.text.embedder, T5Embedder)
    batches = count_batches(model.text.embedder, monkeypatch)
    model.text.embedder = PromptBatches(model.text.embedder)
    engine = Engine(model, RequestConditioner(model), slots=2)
    try:
        for number, prompt in enumerate(SHORT[:8]):
            engine.add(Request(prompt=prompt, duration_s=0.1, seed=number))
        clips = []
        while engine.busy:
            clips += engine.step()
    finally:
        engine.close()
    assert len(clips) == 8
    assert sum(prompts for prompts, _ in batches) == 8
    assert len(batches) <= 5
