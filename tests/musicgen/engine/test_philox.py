"""Philox against its published answers, and the law that makes it counter-based."""

import pytest
import torch

from musicgen.engine.philox import draw_uniforms, philox_4x32

# kat_vectors of Random123 (philox4x32, 10 rounds): counter, key, answer.
KNOWN = [
    ((0, 0, 0, 0), 0, (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((0xFFFFFFFF,) * 4, 0xFFFFFFFFFFFFFFFF, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        0x299F31D0A4093822,
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


@pytest.mark.parametrize(("counter", "key", "answer"), KNOWN)
def test_published_answers(counter: tuple[int, ...], key: int, answer: tuple[int, ...]) -> None:
    signed = key - (1 << 64) if key >> 63 else key
    words = philox_4x32(tuple(torch.tensor(c) for c in counter), torch.tensor(signed))  # type: ignore[arg-type]
    assert tuple(words.tolist()) == answer


def test_a_number_depends_on_its_own_counter_alone() -> None:
    seeds, windows, steps = torch.tensor([5, 2**62 + 11, 5]), torch.tensor([0, 3, 0]), torch.tensor([7, 7, 8])
    together = draw_uniforms(seeds, windows, steps, 4, 50)
    for i in range(3):
        alone = draw_uniforms(seeds[i : i + 1], windows[i : i + 1], steps[i : i + 1], 2, 30)
        assert torch.equal(alone[0], together[i, :2, :30])
    assert not torch.equal(together[0], together[2])
    assert together.unique().numel() == together.numel()
    assert 0 < together.min() < together.max() < 1


def test_numbers_are_uniform() -> None:
    clips = 64
    numbers = draw_uniforms(
        torch.arange(clips), torch.zeros(clips, dtype=torch.long), torch.arange(clips), 4, 2048
    ).flatten()
    counts = torch.histc(numbers, bins=100, min=0, max=1)
    expected = numbers.numel() / 100
    chi2 = ((counts - expected) ** 2 / expected).sum()
    assert chi2 < 149  # the 0.999 quantile with 99 degrees of freedom
