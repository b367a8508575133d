"""Find transformers' own best on this machine: dtype, attention and batch size.

Whole runs of every combination would take hours, so single decoder steps are timed with a cache that is already
filled to a position. A step's cost is close to linear in it, so two positions per batch size predict a whole run.

The cache is `generate`'s own, which grows by concatenation. A static one is no choice here: MusicGen's `generate` of
transformers 5.23 takes `cache_implementation="static"` and goes on with a dynamic one, and a `StaticCache` that is
handed in as `past_key_values` changes the logits from the first step on (its empty positions are attended to).
"""

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tests.benchmarks.peer import DELAY_STEPS, Peer, PeerSetup

TEXT_TOKENS = 48
NEAR, FAR = 32, 400
BATCHES = (1, 4, 8, 16, 32)


@dataclass(frozen=True)
class Cost:
    """Seconds of a decoder step at two positions, of one batch size."""

    batch: int
    near_s: float
    far_s: float

    def at(self, position: float) -> float:
        """Seconds of a step at this position, on the line through the two that were measured."""
        return max(self.near_s + (self.far_s - self.near_s) * (position - NEAR) / (FAR - NEAR), self.near_s * 0.5)

    def batch_s(self, frames: int) -> float:
        """Seconds of all steps of a batch whose longest clip has so many frames."""
        steps = frames + DELAY_STEPS
        return steps * self.at(steps / 2)


def tune(
    folder: Path, say: Any = print, batches: tuple[int, ...] = BATCHES, near: int = NEAR, far: int = FAR
) -> dict[str, Any]:
    """Time the candidates. Returns JSON: `dtype`, `attention`, `costs` [{batch, near_s, far_s}] and all `trials`."""
    trials: list[dict[str, Any]] = []

    def trial(peer: Peer, batch: int, position: int) -> float:
        seconds = _step_s(peer, batch, position)
        entry = {"dtype": peer.setup.dtype, "attention": peer.setup.attention, "batch": batch, "position": position}
        trials.append({**entry, "step_ms": round(1000 * seconds, 1)})
        say(
            f"  transformers {peer.setup.dtype} {peer.setup.attention} batch {batch} at {position}: "
            f"{1000 * seconds:.0f} ms/step"
        )
        return seconds

    middle = min(8, max(batches))
    by_dtype: dict[str, float] = {}
    for dtype in ("float32", "bfloat16"):
        by_dtype[dtype] = trial(Peer(folder, PeerSetup(dtype=dtype)), middle, near)
    setup = PeerSetup(dtype=min(by_dtype, key=by_dtype.__getitem__))
    peer = Peer(folder, setup)
    by_attention: dict[str, float] = {}
    for attention in ("sdpa", "eager"):
        peer.model.decoder.set_attn_implementation(attention)
        peer.setup = replace(setup, attention=attention)
        by_attention[attention] = trial(peer, max(batches), far // 2)
    best = min(by_attention, key=by_attention.__getitem__)
    peer.model.decoder.set_attn_implementation(best)
    peer.setup = replace(setup, attention=best)
    costs = [Cost(batch, trial(peer, batch, near), trial(peer, batch, far)) for batch in batches]
    return {"dtype": setup.dtype, "attention": best, "costs": [vars(cost) for cost in costs], "trials": trials}


def choose(tuning: dict[str, Any], frames: list[int], batch: int | None = None) -> tuple[PeerSetup, float]:
    """The setup that should make clips of these lengths soonest, and the seconds it should take.

    With `batch` given only that size is considered. Raises ValueError if no measured batch size fits.
    """
    ordered = sorted(frames, reverse=True)
    best: tuple[PeerSetup, float] | None = None
    for cost in (Cost(**entry) for entry in tuning["costs"]):
        if cost.batch > len(ordered) or (batch is not None and cost.batch != batch):
            continue
        total = sum(cost.batch_s(ordered[first]) for first in range(0, len(ordered), cost.batch))
        if best is None or total < best[1]:
            best = PeerSetup(tuning["dtype"], tuning["attention"], cost.batch), total
    if best is None:
        raise ValueError(f"no batch size measured for {len(ordered)} clips, batch {batch}")
    return best


def _step_s(peer: Peer, batch: int, position: int, repeats: int = 3) -> float:
    """The fastest of a few decoder steps with guidance (2 x batch rows) and `position` steps in the cache."""
    import torch
    from transformers import DynamicCache, EncoderDecoderCache

    decoder = peer.model.decoder
    config, rows = decoder.config, 2 * batch
    dtype = next(decoder.parameters()).dtype
    heads, width = config.num_attention_heads, config.hidden_size // config.num_attention_heads
    live = DynamicCache(config=config)
    past = EncoderDecoderCache(live, DynamicCache(config=config))
    with torch.inference_mode():
        for layer in range(config.num_hidden_layers):
            filled = torch.randn(rows, heads, position, width, dtype=dtype)
            live.update(filled, filled, layer)
        text = torch.randn(rows, TEXT_TOKENS, config.hidden_size, dtype=dtype)
        mask = torch.ones(rows, TEXT_TOKENS, dtype=torch.long)
        codes = torch.zeros(rows * config.num_codebooks, 1, dtype=torch.long)
        times = []
        for _ in range(repeats + 1):  # the first computes the cross-attention's keys and values
            begin = time.perf_counter()
            decoder(
                input_ids=codes,
                encoder_hidden_states=text,
                encoder_attention_mask=mask,
                past_key_values=past,
                use_cache=True,
            )
            times.append(time.perf_counter() - begin)
    return min(times[1:])
