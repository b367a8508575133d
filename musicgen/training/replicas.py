"""Computes the gradients of a step on copies of the network, one thread each.

The clips of a step are divided into batches of equal size, one for each copy, and each thread computes its products on
a single core. On a CPU such threads wait for each other once per step instead of at every product, which is faster,
especially on a busy machine. The result of a batch does not depend on how many threads run.
"""

import copy
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

from musicgen.training.batch import Batch
from musicgen.training.network import Network


class Replicas:
    """A network and `count - 1` copies that share its weights, each with gradients of its own."""

    def __init__(self, network: Network, count: int):
        self.networks = [network, *(_copy_sharing_weights(network) for _ in range(count - 1))]

    def compute_gradients(
        self,
        batches: Sequence[Batch],
        codebook_shares: Tensor,
        autocast: Callable[[], torch.autocast],
        pool: ThreadPoolExecutor,
    ) -> Tensor:
        """Add the gradients of the batches' mean loss to those of the first network.

        On a CPU the batches are computed in the threads of `pool`. Returns each codebook's loss, float32 [codebooks].
        """

        def compute_loss(network: Network, batch: Batch) -> Tensor:
            with torch.enable_grad():
                with autocast():
                    loss, codebook_losses = network(batch.to(codebook_shares.device), codebook_shares)
                (loss / len(self.networks)).backward()
            return codebook_losses.detach()

        pairs = zip(self.networks, batches, strict=True)
        if codebook_shares.device.type == "cpu":
            futures = [pool.submit(compute_loss, network, batch) for network, batch in pairs]
            losses = [future.result() for future in futures]
        else:
            losses = [compute_loss(network, batch) for network, batch in pairs]
        self._sum_gradients()
        return torch.stack(losses).mean(0)

    def clear_gradients(self) -> None:
        """Remove the gradients of all networks."""
        for network in self.networks:
            network.zero_grad(set_to_none=True)

    def _sum_gradients(self) -> None:
        """Add the copies' gradients to the first network's, always in the same order."""
        for network in self.networks[1:]:
            for parameter, copied in zip(self.networks[0].parameters(), network.parameters(), strict=True):
                if copied.grad is not None:
                    parameter.grad = copied.grad if parameter.grad is None else parameter.grad.add_(copied.grad)


def _copy_sharing_weights(network: Network) -> Network:
    """Copy a network; the copy has gradients of its own, but shares the weights."""
    replica = copy.deepcopy(network)
    for parameter, copied in zip(network.parameters(), replica.parameters(), strict=True):
        copied.data = parameter.data
    return replica
