"""Defines ticks: tokens at the start of a prompt whose text states encode where the beats of the music fall.

To find the beat, a decoder with sinusoidal positions would have to multiply its position by the tempo, which a small
one did not learn in 90 minutes. So the tokenizer puts a tick for every 128 ms, as often as there are pitch classes, in
front of the prompt's words. The text encoder is pretrained (`musicgen.training.text_pretraining`) to compute each
tick's phases from the tempo in the words, and the decoder finds the tick of its own time as it finds the melody's pitch
class. For programs that read the checkpoint, ticks are ordinary tokens.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from musicgen.conditioning import chroma
from musicgen.corpus.arrange import FASTEST_BPM, SLOWEST_BPM

TICK_S = chroma.HOP / chroma.RATE_HZ  # 0.128
LEVELS = (1, 2, 4)  # the periods of the phases in beats; four are a bar of most music
PHASES = 2 * len(LEVELS)  # numbers per tick: the cosine and sine of each level


def tick_tokens(ticks: int) -> list[str]:
    """Return the ticks' tokens, in order."""
    return [f"<tick_{number}>" for number in range(ticks)]


def tick_ids(tokenizer: Any) -> list[int]:
    """Return the ids of a tokenizer's ticks, in order; none if it has no ticks."""
    vocabulary: dict[str, int] = tokenizer.get_vocab()
    ids: list[int] = []
    while (token := f"<tick_{len(ids)}>") in vocabulary:
        ids.append(vocabulary[token])
    return ids


def tick_phases(tempi_bpm: Sequence[float], ticks: int) -> Tensor:
    """Compute each tick's phase in one beat, in two and in four: float32 [tempi, ticks, PHASES], cosines and sines.

    The first tick is at 0 s.
    """
    beats = (
        torch.tensor(list(tempi_bpm), dtype=torch.float64)[:, None] / 60 * TICK_S * torch.arange(ticks)
    )  # [tempi, ticks]
    angles = torch.stack([beats / level for level in LEVELS], dim=-1) * 2 * math.pi
    return torch.cat([angles.cos(), angles.sin()], dim=-1).float()


@torch.no_grad()
def init_tick_embeddings(embeddings: Tensor, ids: Sequence[int]) -> None:
    """Initialize half the width of the ticks' embeddings, rows `ids` of `embeddings`, with waves of all tempi.

    `embeddings` are [vocabulary, width]. The encoder then only has to learn which wave belongs to a tempo.
    """
    waves = embeddings.shape[1] // 4
    slowest, fastest = SLOWEST_BPM / 60 / LEVELS[-1], FASTEST_BPM / 60
    frequencies = torch.logspace(math.log10(slowest), math.log10(fastest), waves) * 2 * math.pi  # radians a second
    angles = torch.arange(len(ids))[:, None] * TICK_S * frequencies
    embeddings[torch.tensor(ids), : 2 * waves] = math.sqrt(2) * torch.cat([angles.cos(), angles.sin()], dim=1).to(
        embeddings
    )
