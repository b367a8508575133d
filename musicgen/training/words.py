"""The text encoder learns what captions say, before there is any music.

MusicGen's text encoder comes trained (T5, frozen: Copet et al. 2023, section 3.2). A small one of random weights has only the
decoder's loss to learn from, where the instrument drowns all else: after a thousand steps tempo, key and drums were worth nothing.
So it reads captions of random facts, and every position's state is to tell them all, linearly: then any attention to the text finds them.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from musicgen.training.corpus.arrange import FASTEST_BPM, MOODS, SLOWEST_BPM, draw_plan
from musicgen.training.corpus.caption import caption
from musicgen.training.corpus.score import INSTRUMENTS, SCALES, Score

_HELD_OUT = 1_000
_ROWS, _RATE = 64, 3e-3
_TEMPI = 32  # bins, evenly in the logarithm: 3.5 % each
_WIDTH = 1.2  # bins: how far a tempo spreads over its neighbours
_MODES = tuple(SCALES)
_SOURCES = ("composed", "composed", "essen/", "bach/")


@dataclass(frozen=True, slots=True)
class Facts:
    """What captions tell, a row each; float32, each a distribution but `scale`, which is the pitch classes of the key."""

    instrument: Tensor  # [N, 6]
    tempo: Tensor  # [N, 32]
    key: Tensor  # [N, 24]
    scale: Tensor  # [N, 12], each 0 or 1
    drums: Tensor  # [N, 2]
    mood: Tensor  # [N, moods]

    @classmethod
    def of(cls, scores: list[Score]) -> "Facts":
        """The facts of some scores, whose notes do not matter."""
        at = np.log([score.tempo_bpm / SLOWEST_BPM for score in scores]) / np.log(FASTEST_BPM / SLOWEST_BPM) * (_TEMPI - 1)
        tempo = np.exp(-0.5 * ((np.arange(_TEMPI) - at[:, None]) / _WIDTH) ** 2)
        scale = np.array([[(pitch - score.tonic) % 12 in SCALES[score.mode] for pitch in range(12)] for score in scores])
        return cls(
            instrument=_one_hot([INSTRUMENTS.index(score.instrument) for score in scores], len(INSTRUMENTS)),
            tempo=torch.from_numpy(tempo / tempo.sum(1, keepdims=True)).float(),
            key=_one_hot([score.tonic + 12 * _MODES.index(score.mode) for score in scores], 24),
            scale=torch.from_numpy(scale).float(),
            drums=_one_hot([int(score.drums) for score in scores], 2),
            mood=_one_hot([MOODS.index(score.mood) for score in scores], len(MOODS)),
        )

    def items(self) -> list[tuple[str, Tensor]]:
        """The facts by name."""
        return [(name, getattr(self, name)) for name in ("instrument", "tempo", "key", "scale", "drums", "mood")]


def teach(
    encoder: Any, tokenizer: Any, seed: int, say: Callable[[str], None] = lambda text: None, captions: int = 24_000, steps: int = 1_000
) -> dict[str, float]:
    """Train a T5 encoder on captions drawn from `seed`. Returns how often each fact is told right of captions it never read."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # sums depend on how they are shared out
    try:
        return _teach(encoder, tokenizer, seed, say, captions, steps)
    finally:
        torch.set_num_threads(threads)


def _teach(encoder: Any, tokenizer: Any, seed: int, say: Callable[[str], None], captions: int, steps: int) -> dict[str, float]:
    rng = np.random.default_rng([seed, 2])
    scores = [_draw(rng) for _ in range(captions + _HELD_OUT)]
    texts = [caption(score, rng) for score in scores]
    tokens = tokenizer(texts)["input_ids"]
    facts = Facts.of(scores)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        heads = nn.ModuleDict({name: nn.Linear(encoder.config.d_model, wanted.shape[1]) for name, wanted in facts.items()})
    parameters = [*encoder.parameters(), *heads.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=_RATE, weight_decay=0.01, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, _RATE, total_steps=steps, pct_start=0.1)
    say(f"text encoder: learning what {captions} captions say")
    for _ in range(steps):
        rows = rng.integers(captions, size=_ROWS)
        states, where = _read(encoder, tokens, rows)
        loss = torch.zeros(())
        for name, wanted in facts.items():
            told = heads[name](states)
            right = wanted[torch.from_numpy(rows)][where]
            loss = loss + (F.binary_cross_entropy_with_logits if name == "scale" else F.cross_entropy)(told, right)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
    found = _examine(encoder, tokens, heads, facts)
    say("text encoder: told right " + ", ".join(f"{name} {share:.0%}" for name, share in found.items()))
    return found


def _draw(rng: np.random.Generator) -> Score:
    plan = draw_plan(rng, INSTRUMENTS[rng.integers(len(INSTRUMENTS))], _MODES[rng.integers(2)])
    source = _SOURCES[rng.integers(len(_SOURCES))]
    return Score((), plan.tempo_bpm, int(rng.integers(12)), plan.mode, plan.instrument, plan.drums, plan.mood, source)


def _read(encoder: Any, tokens: list[list[int]], rows: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
    """The states of these captions' tokens, [positions, hidden], and the row that each is of, [positions]."""
    padded = nn.utils.rnn.pad_sequence([torch.tensor(tokens[row]) for row in rows], batch_first=True)
    mask = padded != 0
    states = encoder(input_ids=padded, attention_mask=mask.long()).last_hidden_state
    return states[mask], mask.nonzero()[:, 0]


@torch.no_grad()
def _examine(encoder: Any, tokens: list[list[int]], heads: nn.ModuleDict, facts: Facts) -> dict[str, float]:
    """Of the last captions, by the mean of their positions; a tempo is right within two bins. What a caption leaves out counts too."""
    rows = np.arange(len(tokens) - _HELD_OUT, len(tokens))
    states, where = _read(encoder, tokens, rows)
    mean = torch.zeros(len(rows), states.shape[1]).index_add_(0, where, states) / where.bincount()[:, None]
    found = {}
    for name, wanted in facts.items():
        told, right = heads[name](mean), wanted[torch.from_numpy(rows)]
        if name == "scale":
            found[name] = float(((told > 0) == (right > 0)).float().mean())
        else:
            near = (told.argmax(1) - right.argmax(1)).abs() <= (2 if name == "tempo" else 0)
            found[name] = float(near.float().mean())
    return found


def _one_hot(values: list[int], size: int) -> Tensor:
    return F.one_hot(torch.tensor(values), size).float()
