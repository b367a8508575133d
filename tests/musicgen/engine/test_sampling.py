"""Sampling against transformers' own logits processors: which codes are kept, and how often each is drawn."""

from typing import Any

import numpy as np
import pytest
import torch
from transformers.generation.logits_process import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from musicgen.engine.sampling import SAMPLING_PARAMS_DTYPE, SamplingParams, apply_guidance, filter_logits, sample_codes
from musicgen.model.decoder.cpu_ops import CpuOps, load_library

SIZE = 64
SETTINGS = [
    (1.0, 250, 0.0),
    (1.0, 10, 0.0),
    (0.7, 25, 0.0),
    (1.5, 0, 0.0),
    (1.0, 0, 0.9),
    (1.3, 5, 0.5),
    (0.5, 64, 0.0),
    (1.0, 1, 0.0),
]


def choices(count: int, **values: Any) -> SamplingParams:
    table = np.zeros(count, SAMPLING_PARAMS_DTYPE)
    for name, value in {"scale": 1.0, "beta": 1.0, "temperature": 1.0, "seed": np.arange(count), **values}.items():
        table[name] = value
    return SamplingParams.from_table(table, torch.device("cpu"))


def processed(logits: torch.Tensor, temperature: float, top_k: int, top_p: float) -> torch.Tensor:
    """transformers' softmax of logits [size] after its warpers, with MusicGen's rule: top-p, else top-k."""
    scores = TemperatureLogitsWarper(temperature)(None, logits[None]) if temperature != 1 else logits[None]
    if top_p > 0:
        scores = TopPLogitsWarper(top_p)(None, scores)
    elif top_k > 0:
        scores = TopKLogitsWarper(top_k)(None, scores)
    return scores.softmax(-1)[0]


def draw(path: str, logits: torch.Tensor, what: SamplingParams, steps: torch.Tensor) -> torch.Tensor:
    if path == "torch":
        return sample_codes(logits, what, steps)
    library = load_library()
    if isinstance(library, str):
        pytest.skip(f"no compiled kernels: {library}")
    codes = torch.full((len(what.table), logits.shape[1]), -1, dtype=torch.int32)
    CpuOps(library, torch.float32, 2).sample(logits.contiguous(), what.table, steps.int(), codes)
    return codes.long()


@pytest.mark.parametrize("path", ["torch", "native"])
@pytest.mark.parametrize(("temperature", "top_k", "top_p"), SETTINGS)
def test_draws_follow_the_processed_softmax(path: str, temperature: float, top_k: int, top_p: float) -> None:
    logits = torch.randn(SIZE, generator=torch.Generator().manual_seed(5)) * 2
    expected = processed(logits, temperature, top_k, top_p)
    clips, codebooks = 4000, 8
    what = choices(clips, temperature=temperature, top_k=top_k, top_p=top_p)  # all read row 0
    drawn = draw(path, logits.expand(1, codebooks, SIZE), what, torch.arange(clips) % 17)
    counts = torch.bincount(drawn.flatten(), minlength=SIZE).double()
    live = expected > 0
    assert counts[~live].sum() == 0
    means = expected[live].double() * counts.sum()
    chi2 = ((counts[live] - means) ** 2 / means).sum().item()
    freedom = int(live.sum()) - 1
    assert (
        chi2 <= freedom + 4.5 * (2 * freedom) ** 0.5 + 8
    )  # beyond the 0.99999 quantile for every number of degrees here


@pytest.mark.parametrize("path", ["torch", "native"])
def test_guidance_greed_and_parameters_are_each_rows_own(path: str) -> None:
    generator = torch.Generator().manual_seed(7)
    rows = torch.randn(9, 4, SIZE, generator=generator) * 3
    what = choices(
        4,
        cond=[0, 1, 2, 3],
        other=[0, 1, 8, 3],
        null=[4, 5, 6, 3],
        scale=[3.0, 1.5, 3.0, 7.0],
        beta=[1.0, 1.0, 5.0, 1.0],
        temperature=0.0,
    )
    mixed = apply_guidance(rows, what)
    assert torch.equal(mixed[0], rows[4] + (rows[0] - rows[4]) * 3.0)
    assert torch.equal(mixed[2], rows[6] + ((rows[8] + (rows[2] - rows[8]) * 5.0) - rows[6]) * 3.0)
    assert torch.equal(mixed[3], rows[3])  # one branch: whatever the scale says
    assert torch.equal(draw(path, rows, what, torch.zeros(4)), mixed.argmax(-1))


def test_kernel_and_torch_draw_the_same() -> None:
    """The same words, and float64 from there: the two paths agree on every draw."""
    generator = torch.Generator().manual_seed(1)
    clips = 200
    rows = torch.randn(2 * clips, 4, 512, generator=generator) * 2
    what = choices(
        clips,
        cond=np.arange(clips),
        other=np.arange(clips),
        null=clips + np.arange(clips),
        scale=3.0,
        temperature=np.linspace(0, 2, clips),
        top_k=[0, 1, 50, 250, 10000] * 40,
        top_p=[0.0] * 100 + [0.3] * 50 + [0.95] * 50,
        window=np.arange(clips) % 5,
        seed=np.arange(clips) * 7919**4,
    )
    steps = torch.arange(clips) * 3
    assert torch.equal(draw("torch", rows, what, steps), draw("native", rows, what, steps))


def test_ties_at_the_threshold_are_all_kept() -> None:
    logits = torch.tensor([3.0, 2.0, 2.0, 2.0, 1.0]).expand(1, 1, 5)
    assert (filter_logits(logits, choices(1, top_k=2)) > -torch.inf).tolist() == [[[True, True, True, True, False]]]
    assert (TopKLogitsWarper(2)(None, logits[0]) > -torch.inf).tolist() == [[True, True, True, True, False]]


@pytest.mark.parametrize("path", ["torch", "native"])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_logits_that_are_not_finite_give_the_special_token_and_harm_nobody(path: str, bad: float) -> None:
    generator = torch.Generator().manual_seed(3)
    rows = torch.randn(12, 4, SIZE, generator=generator)
    cases = {
        "temperature": [0.0, 1.0, 1.0, 1.0, 1.0, 1e-30],
        "top_k": [0, 0, 5, SIZE, 0, 250],
        "top_p": [0.0, 0.0, 0.0, 0.0, 0.9, 0.0],
    }
    what = choices(6, cond=np.arange(6), other=np.arange(6), null=6 + np.arange(6), scale=3.0, **cases)
    whole = draw(path, rows, what, torch.arange(6))
    assert whole.max() < SIZE
    for clip in range(6):
        for row in (clip, 6 + clip):
            hurt = rows.clone()
            hurt[row, 2, 17] = bad
            expected = whole.clone()
            expected[clip, 2] = SIZE
            assert torch.equal(draw(path, hurt, what, torch.arange(6)), expected)
