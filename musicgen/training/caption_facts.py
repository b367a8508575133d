"""Draws the facts of captions, and encodes them as the targets of the text encoder's pretraining."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from musicgen.corpus.arrange import FASTEST_BPM, MOODS, SLOWEST_BPM, draw_arrangement
from musicgen.corpus.score import INSTRUMENTS, SCALES, Score

_TEMPI = 32  # bins, evenly in the logarithm: 3.5 % each
_WIDTH = 1.2  # bins: how far a tempo spreads over its neighbours
_MODES = tuple(SCALES)
_SOURCES = ("composed", "composed", "essen/", "bach/")


@dataclass(frozen=True, slots=True)
class CaptionFacts:
    """The facts of N captions as float32 distributions; `scale` holds the pitch classes of the key instead."""

    instrument: Tensor  # [N, 6]
    tempo: Tensor  # [N, 32]
    key: Tensor  # [N, 24]
    scale: Tensor  # [N, 12], each 0 or 1
    drums: Tensor  # [N, 2]
    mood: Tensor  # [N, moods]

    @classmethod
    def from_scores(cls, scores: list[Score]) -> "CaptionFacts":
        """Encode the facts of scores; their notes are not used."""
        at = (
            np.log([score.tempo_bpm / SLOWEST_BPM for score in scores])
            / np.log(FASTEST_BPM / SLOWEST_BPM)
            * (_TEMPI - 1)
        )
        tempo = np.exp(-0.5 * ((np.arange(_TEMPI) - at[:, None]) / _WIDTH) ** 2)
        scale = np.array(
            [[(pitch - score.tonic) % 12 in SCALES[score.mode] for pitch in range(12)] for score in scores]
        )
        return cls(
            instrument=_one_hot([INSTRUMENTS.index(score.instrument) for score in scores], len(INSTRUMENTS)),
            tempo=torch.from_numpy(tempo / tempo.sum(1, keepdims=True)).float(),
            key=_one_hot([score.tonic + 12 * _MODES.index(score.mode) for score in scores], 24),
            scale=torch.from_numpy(scale).float(),
            drums=_one_hot([int(score.drums) for score in scores], 2),
            mood=_one_hot([MOODS.index(score.mood) for score in scores], len(MOODS)),
        )

    def items(self) -> list[tuple[str, Tensor]]:
        """Return the facts by name."""
        return [(name, getattr(self, name)) for name in ("instrument", "tempo", "key", "scale", "drums", "mood")]


def draw_score(rng: np.random.Generator) -> Score:
    """Draw the facts of a score, without notes."""
    plan = draw_arrangement(rng, INSTRUMENTS[rng.integers(len(INSTRUMENTS))], _MODES[rng.integers(2)])
    source = _SOURCES[rng.integers(len(_SOURCES))]
    return Score((), plan.tempo_bpm, int(rng.integers(12)), plan.mode, plan.instrument, plan.drums, plan.mood, source)


def _one_hot(values: list[int], size: int) -> Tensor:
    return F.one_hot(torch.tensor(values), size).float()
