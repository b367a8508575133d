"""Measures a network's loss on the validation clips, with and without their conditions."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import torch

from musicgen.training.batch import Batch
from musicgen.training.batch_loader import BatchLoader
from musicgen.training.network import Network


def measure_validation_losses(
    network: Network,
    loader: BatchLoader,
    clips: int,
    device: torch.device,
    autocast: Callable[[], torch.autocast],
    pool: ThreadPoolExecutor,
) -> dict[str, float]:
    """Measure the mean loss of the first `clips` clips, in nats a code; on a CPU in the threads of `pool`.

    The keys are those of the log: "valid" with all conditions, "valid_text" without melody, "valid_none" without any.
    """

    def compute_loss(batch: Batch) -> float:
        with torch.no_grad(), autocast():  # both are settings of a thread
            return float(network(batch.to(device))[0])

    losses_by_name = {}
    for name, with_text, with_melody in (
        ("valid", True, True),
        ("valid_text", True, False),
        ("valid_none", False, False),
    ):
        batches = loader.validation_batches(clips, with_text, with_melody)
        losses = list((pool.map if device.type == "cpu" else map)(compute_loss, batches))
        weights = [len(batch.inputs) for batch in batches]
        weighted = (loss * weight for loss, weight in zip(losses, weights, strict=True))
        losses_by_name[name] = sum(weighted) / sum(weights)
    return losses_by_name
