"""Where beats fall, told by the text encoder: a prompt begins with ticks, positions that each say how far on in its
beat the music is.

A decoder of sinusoidal positions would have to multiply its position by the tempo to know that, which a small one did
not learn in 90 minutes. Here the tokenizer puts a tick every 128 ms, as often as there are pitch classes, in front of
the prompt's words; the text encoder is taught, before there is any music (`musicgen.training.text_pretraining`), to
tell from the tempo in the words each tick's phases; and the decoder finds the tick of its own time as it finds the
melody's pitch class. To a reader of the checkpoint ticks are words.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from musicgen.conditioning import chroma
from musicgen.corpus.arrange import FASTEST_BPM, SLOWEST_BPM

TICK_S = chroma.HOP / chroma.RATE_HZ  # 0.128
LEVELS = (1, 2, 4)  # beats that a phase goes round in; four are a bar of most music
PHASES = 2 * len(LEVELS)  # numbers a tick: the cosine and sine of each level


def tick_tokens(ticks: int) -> list[str]:
    """The ticks' tokens, in order."""
    return [f"<tick_{number}>" for number in range(ticks)]


def tick_ids(tokenizer: Any) -> list[int]:
    """The ids of a tokenizer's ticks, in order; none for a tokenizer without."""
    vocabulary: dict[str, int] = tokenizer.get_vocab()
    ids: list[int] = []
    while (token := f"<tick_{len(ids)}>") in vocabulary:
        ids.append(vocabulary[token])
    return ids


def tick_phases(tempi_bpm: Sequence[float], ticks: int) -> Tensor:
    """Where in its beat, in two beats and in four each tick is, the first at 0: float32 [tempi, ticks, PHASES], cosines
    and sines.
    """
    beats = (
        torch.tensor(list(tempi_bpm), dtype=torch.float64)[:, None] / 60 * TICK_S * torch.arange(ticks)
    )  # [tempi, ticks]
    angles = torch.stack([beats / level for level in LEVELS], dim=-1) * 2 * math.pi
    return torch.cat([angles.cos(), angles.sin()], dim=-1).float()


@torch.no_grad()
def init_tick_embeddings(embeddings: Tensor, ids: Sequence[int]) -> None:
    """Begin the embeddings of ticks, rows `ids` of `table` [vocabulary, width], with waves of every tempo: half their
    width.

    What is left to learn is which of them a tempo picks.
    """
    waves = embeddings.shape[1] // 4
    slowest, fastest = SLOWEST_BPM / 60 / LEVELS[-1], FASTEST_BPM / 60
    frequencies = torch.logspace(math.log10(slowest), math.log10(fastest), waves) * 2 * math.pi  # radians a second
    angles = torch.arange(len(ids))[:, None] * TICK_S * frequencies
    embeddings[torch.tensor(ids), : 2 * waves] = math.sqrt(2) * torch.cat([angles.cos(), angles.sin()], dim=1).to(
        embeddings
    )
