"""Heads that look at their own time, before anything is learnt: by what they attend to, and by what a change there
does.
"""

import json

import numpy as np
import pytest
import torch

from musicgen.corpus.caption import caption_vocabulary
from musicgen.model.checkpoint.resolve import Checkpoint, resolve_checkpoint
from musicgen.model.checkpoint.tensors import Tensors
from musicgen.model.text.tokenizer import load_tokenizer
from musicgen.training.align import align_heads
from musicgen.training.batch import Batch, TrainingClip, assemble_batch
from musicgen.training.network import Network
from musicgen.training.start import ModelSizes, StoredCodec, write_initial_checkpoint

TICKS = 79
FRAMES = 500
SIZES = {
    "layers": 1,
    "text_hidden": 32,
    "text_layers": 1,
    "positions": FRAMES + 4,
    "ticks": TICKS,
    "text_length": TICKS + 12,
}


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    codec = StoredCodec.from_checkpoint(resolve_checkpoint("embedded"))
    return write_initial_checkpoint(
        tmp_path_factory.mktemp("align") / "start",
        ModelSizes.model_validate(SIZES),
        codec,
        caption_vocabulary(),
        seed=0,
    )


def _network(start: Checkpoint) -> tuple[Network, list[np.ndarray]]:
    config = json.loads((start.folder / "config.json").read_text())["text_encoder"]
    network = Network(start.spec, config)
    network.load(Tensors.open(start.folder))
    tokenizer = load_tokenizer(start.folder, network.text_encoder.config)
    return network.eval(), [np.asarray(ids, np.int32) for ids in tokenizer(["sad flute, 92 bpm", "organ"])["input_ids"]]


def _batch(network: Network, text: np.ndarray, pattern: str, bins: np.ndarray) -> Batch:
    codes = np.random.default_rng(9).integers(network.spec.codebook_size, size=(4, FRAMES), dtype=np.int16)
    return assemble_batch([TrainingClip(codes, bins, text)], network.spec, pattern, FRAMES)


@pytest.mark.parametrize("pattern", ["delay", "parallel", "coarse_first", "flattening"])
def test_two_heads_attend_to_their_own_time_in_every_pattern(start: Checkpoint, pattern: str) -> None:
    network, texts = _network(start)
    found = align_heads(network, texts, TICKS, pattern, seed=0)
    # Five positions of the prefix's 170, and of a past of up to 500.
    assert len(found) == 2
    assert min(found) > 0.5, found


def test_without_ticks_one_head_is_set_and_results_are_reproducible(start: Checkpoint) -> None:
    one, texts = _network(start)
    other, _ = _network(start)
    before = {name: weight.clone() for name, weight in one.named_parameters()}
    assert len(align_heads(one, texts, 0, "delay", seed=1)) == 1
    align_heads(other, texts, 0, "delay", seed=1)
    changed = {name for name, weight in one.named_parameters() if not torch.equal(weight, before[name])}
    attention = "decoder.model.decoder.layers.0.self_attn."
    assert changed == {f"{attention}{name}.weight" for name in ("q_proj", "k_proj", "v_proj", "out_proj")}
    for mine, theirs in zip(one.parameters(), other.parameters(), strict=True):
        assert torch.equal(mine, theirs)
    query = dict(one.named_parameters())[f"{attention}q_proj.weight"]
    assert torch.equal(query[64:], before[f"{attention}q_proj.weight"][64:])  # the other heads


def test_a_pitch_class_has_an_effect_at_its_own_time(start: Checkpoint) -> None:
    network, texts = _network(start)
    align_heads(network, texts, TICKS, "delay", seed=0)
    with torch.no_grad():
        network.decoder.model.decoder.layers[0].fc2.weight.zero_()  # attention alone
        bins = np.zeros(TICKS, np.int8)
        plain = network.states(_batch(network, texts[0], "delay", bins))[0]
        bins[40] = 7  # at 40 x 0.128 s: code 256
        changed = network.states(_batch(network, texts[0], "delay", bins))[0]
    moved = (changed - plain).square().sum(-1)
    assert abs(int(moved.argmax()) - 256) <= 8, int(moved.argmax())
    assert moved[236:277].sum() > 0.6 * moved.sum()
