"""The loss in blocks equals torch's own, its gradients too, with and without shares of the codebooks."""

import pytest
import torch

from musicgen.training.loss import IGNORED, cross_entropy


@pytest.mark.parametrize("shares", [None, (0.5, 0.25, 0.25)])
def test_values_and_gradients_equal_torchs(shares: tuple[float, ...] | None) -> None:
    torch.manual_seed(0)
    states, heads = torch.randn(300, 8, requires_grad=True), torch.randn(3 * 16, 8, requires_grad=True)
    targets = torch.randint(16, (300, 3))
    targets[:40, 1] = IGNORED
    counts = None if shares is None else torch.tensor(shares)
    loss, each = cross_entropy(states, heads, targets, counts)
    found = torch.autograd.grad(2 * loss, (states, heads))
    logits = (states @ heads.T).view(300, 3, 16)
    expected = torch.stack(
        [torch.nn.functional.cross_entropy(logits[:, k], targets[:, k], ignore_index=IGNORED) for k in range(3)]
    )
    mean = (expected * (torch.full((3,), 1 / 3) if counts is None else counts)).sum()
    torch.testing.assert_close(each, expected.detach())
    torch.testing.assert_close(loss.detach(), mean.detach())
    for mine, theirs in zip(found, torch.autograd.grad(2 * mean, (states, heads)), strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-6, rtol=1e-4)


def test_under_autocast_the_loss_keeps_its_digits() -> None:
    torch.manual_seed(0)
    states, heads, targets = torch.randn(100, 8), torch.randn(4 * 16, 8), torch.randint(16, (100, 4))
    with torch.autocast("cpu", torch.bfloat16):
        loss, each = cross_entropy(states, heads, targets)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, each.mean())
