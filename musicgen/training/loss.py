"""Computes the cross-entropy of all codebooks without holding the logits of all positions at once.

A small decoder's heads are a third of its work, and their logits (4,000 positions x 4 codebooks x 1,024 in float32: 64
MB) do not fit into a processor's cache. Here logits, loss and gradient are computed for a block of positions while they
are in the cache, and only the gradients of states and heads are kept.
"""

from typing import Any

import torch
from torch import Tensor

IGNORED = -100  # the target of a position without a code
_BLOCK_POSITIONS = 128  # positions: 2 MB of logits


def cross_entropy(
    states: Tensor, heads: Tensor, targets: Tensor, shares: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Compute the mean cross-entropy, and that of each codebook, float32 [codebooks], which has no gradient.

    `states` are [N, hidden]; `heads` [codebooks * size, hidden], codebook by codebook; `targets` int64 [N, codebooks],
    `IGNORED` where there is no code (a codebook without codes has the loss 0). `shares` float32 [codebooks] are the
    codebooks' weights in the mean, whose sum is 1; None: equal weights. Under autocast the products are in its dtype.
    """
    if torch.is_autocast_enabled(states.device.type):
        dtype = torch.get_autocast_dtype(states.device.type)
        states, heads = states.to(dtype), heads.to(dtype)
    codebooks = targets.shape[1]
    shares = torch.full((codebooks,), 1 / codebooks, device=states.device) if shares is None else shares
    loss, codebook_losses = _CrossEntropy.apply(states, heads, targets, shares)
    return loss, codebook_losses


class _CrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, states: Tensor, heads: Tensor, targets: Tensor, shares: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the losses, and already the gradients of states and heads for a gradient of 1."""
        codebooks = targets.shape[1]
        code_weight = 1 / (targets != IGNORED).sum(0).clamp(min=1)  # [codebooks]
        needs_grad = any(ctx.needs_input_grad[:2])
        losses = torch.zeros(codebooks, dtype=torch.float32, device=states.device)
        states_grad, heads_grad = (
            torch.empty_like(states),
            torch.zeros(heads.shape, dtype=torch.float32, device=heads.device),
        )
        with torch.autocast(states.device.type, enabled=False):
            for block_states, block_targets, block_grad in zip(
                states.split(_BLOCK_POSITIONS),
                targets.split(_BLOCK_POSITIONS),
                states_grad.split(_BLOCK_POSITIONS),
                strict=True,
            ):
                weights = (block_targets != IGNORED) * code_weight  # [block, codebooks]
                target_indices = block_targets.clamp(min=0)[..., None]
                log_probabilities = (
                    (block_states @ heads.T).view(len(block_states), codebooks, -1).float().log_softmax(-1)
                )
                losses -= (log_probabilities.gather(-1, target_indices)[..., 0] * weights).sum(0)
                if needs_grad:
                    logit_grad = log_probabilities.exp_().scatter_add_(
                        -1, target_indices, torch.full_like(target_indices, -1.0, dtype=log_probabilities.dtype)
                    )
                    logit_grad = logit_grad.mul_((weights * shares)[..., None]).flatten(1).to(block_states.dtype)
                    torch.mm(logit_grad, heads, out=block_grad)
                    heads_grad += logit_grad.T @ block_states
        if needs_grad:
            ctx.save_for_backward(states_grad, heads_grad.to(heads.dtype))
        ctx.mark_non_differentiable(losses)
        return (losses * shares).sum(), losses  # a product, because autocast would round a matrix product

    @staticmethod
    def backward(ctx: Any, scale: Tensor, _: Tensor) -> tuple[Tensor, Tensor, None, None]:
        """Scale the gradients that `forward` computed."""
        states_grad, heads_grad = ctx.saved_tensors
        return states_grad * scale, heads_grad * scale, None, None
