"""The text encoder learns what captions on_message, before there is any music.

MusicGen's text encoder comes trained (T5, frozen: Copet et al. 2023, section 3.2). A small one of random weights has
only the decoder's loss to learn from, where the instrument drowns all else: after a thousand steps tempo, key and drums
were worth nothing. So it reads captions of random facts, and every word's state is to tell them all, linearly: then any
attention to the text finds them. Ticks, where a checkpoint has them (`musicgen.training.ticks`), are to tell their
place in the beat and nothing else.
"""

import math
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from musicgen.corpus.arrange import FASTEST_BPM, MOODS, SLOWEST_BPM, draw_arrangement
from musicgen.corpus.caption import draw_caption
from musicgen.corpus.score import INSTRUMENTS, SCALES, Score
from musicgen.training.ticks import LEVELS, PHASES, init_tick_embeddings, tick_ids, tick_phases

_HELD_OUT = 1_000
_ROWS, _ROWS_OF_TICKS = 64, 16  # captions a step
_RATE, _RATE_OF_TICKS = 3e-3, 2e-3
_STEPS, _STEPS_OF_TICKS = 1_000, 1_600
_WARM = 100  # steps of the drill
_DRILLED, _DRILL_STEPS = (
    0.05,
    2_000,
)  # the error of phases, of which 0.4 is to know nothing, that ends the drill, or so many steps
_BEAT = 30.0  # what that error counts beside the facts
_TEMPI = 32  # bins, evenly in the logarithm: 3.5 % each
_WIDTH = 1.2  # bins: how far a tempo spreads over its neighbours
_MODES = tuple(SCALES)
_SOURCES = ("composed", "composed", "essen/", "bach/")


@dataclass(frozen=True, slots=True)
class CaptionFacts:
    """The facts of captions, a row each, float32: distributions, but `scale` holds the pitch classes of the key."""

    instrument: Tensor  # [N, 6]
    tempo: Tensor  # [N, 32]
    key: Tensor  # [N, 24]
    scale: Tensor  # [N, 12], each 0 or 1
    drums: Tensor  # [N, 2]
    mood: Tensor  # [N, moods]

    @classmethod
    def from_scores(cls, scores: list[Score]) -> "CaptionFacts":
        """The facts of some scores, whose notes do not matter."""
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
        """The facts by name."""
        return [(name, getattr(self, name)) for name in ("instrument", "tempo", "key", "scale", "drums", "mood")]


@dataclass(frozen=True, slots=True, eq=False)
class PretrainingResult:
    """The result of pretraining: accuracy per fact on unseen captions, and the linear heads that read the facts."""

    accuracies: dict[
        str, float
    ]  # by fact; "beat": of ticks whose tempo is in the caption, the part whose beat is told within 20 ms
    heads: Mapping[str, nn.Linear]  # by fact; "beat": phases


def train_text_encoder(
    encoder: Any,
    tokenizer: Any,
    seed: int,
    on_message: Callable[[str], None] = lambda text: None,
    captions: int = 24_000,
    steps: int | None = None,
    drill: int = _DRILL_STEPS,
) -> PretrainingResult:
    """Train a T5 encoder on captions drawn from `seed`: at most `drill` steps of ticks alone, if its tokenizer has
    them, then `steps`.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # sums depend on how they are shared out
    try:
        return _teach(encoder, tokenizer, seed, on_message, captions, steps, drill)
    finally:
        torch.set_num_threads(threads)


def _teach(
    encoder: Any,
    tokenizer: Any,
    seed: int,
    on_message: Callable[[str], None],
    captions: int,
    steps: int | None,
    drill: int,
) -> PretrainingResult:
    rng = np.random.default_rng([seed, 2])
    scores = [_draw_score(rng) for _ in range(captions + _HELD_OUT)]
    texts = [draw_caption(score, rng) for score in scores]
    tokens = tokenizer(texts)["input_ids"]
    facts, tempi = CaptionFacts.from_scores(scores), np.array([score.tempo_bpm for score in scores])
    ticks = len(tick_ids(tokenizer))
    bare = [ids[ticks:] for ids in tokens]
    steps = steps or (_STEPS_OF_TICKS if ticks else _STEPS)
    width = encoder.config.d_model
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        heads = nn.ModuleDict({name: nn.Linear(width, wanted.shape[1]) for name, wanted in facts.items()})
        if ticks:
            heads["beat"] = nn.Linear(width, PHASES)
            init_tick_embeddings(encoder.shared.weight, tick_ids(tokenizer))
    parameters = [*encoder.parameters(), *heads.parameters()]
    optimizer = torch.optim.AdamW(parameters, weight_decay=0.01, fused=True)

    def learn(loss: Tensor, rate: float) -> None:
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        for group in optimizer.param_groups:
            group["lr"] = rate * (_RATE_OF_TICKS if ticks else _RATE)
        optimizer.step()

    on_message(f"text encoder: learning what {captions} captions say" + (", first where beats fall" if ticks else ""))
    if ticks:  # alone: beside the facts they do not get off the ground
        numbered = np.array([row for row in range(captions) if f"{tempi[row]:.0f}" in texts[row]])
        errors: deque[float] = deque(maxlen=50)
        for step in range(drill):
            rows = rng.choice(numbered, _ROWS_OF_TICKS)
            states, where, column = _encode_captions(encoder, tokens, rows)
            loss = F.mse_loss(heads["beat"](states), _tick_targets(tempi[rows], ticks, where, column))
            learn(loss, min(1, (step + 1) / _WARM))
            errors.append(loss.item())
            if step % 100 == 99:
                on_message(f"text encoder: {step + 1} steps, error of phases {np.mean(errors):.4f}")
            if len(errors) == errors.maxlen and np.mean(errors) < _DRILLED:
                break
    for step in range(steps):
        # Every second step reads captions without their ticks, which are most of a caption: four times as many.
        ticking = bool(ticks) and step % 2 == 1
        rows = rng.integers(captions, size=_ROWS_OF_TICKS if ticking else _ROWS)
        states, where, column = _encode_captions(encoder, tokens if ticking else bare, rows)
        word = column >= ticks if ticking else torch.ones_like(column, dtype=torch.bool)
        loss = torch.zeros(())
        for name, wanted in facts.items():
            right = wanted[torch.from_numpy(rows)][where[word]]
            loss = loss + (F.binary_cross_entropy_with_logits if name == "scale" else F.cross_entropy)(
                heads[name](states[word]), right
            )
        if ticking:
            loss = loss + _BEAT * F.mse_loss(heads["beat"](states), _tick_targets(tempi[rows], ticks, where, column))
        learn(loss, min(1, 10 * (step + 1) / steps) * 0.5 * (1 + math.cos(math.pi * step / steps)))
        if step % 400 == 399:
            on_message(f"text encoder: {step + 1} steps, loss {loss.item():.3f}")
    found = _measure_accuracies(encoder, tokens, heads, facts, ticks)
    if ticks:
        found["beat"] = _measure_tick_accuracy(encoder, tokens, heads, tempi, texts, ticks)
    on_message("text encoder: told right " + ", ".join(f"{name} {share:.0%}" for name, share in found.items()))
    return PretrainingResult(found, {name: head for name, head in heads.items() if isinstance(head, nn.Linear)})


def _tick_targets(tempi: NDArray[np.float64], ticks: int, where: Tensor, column: Tensor) -> Tensor:
    """What each position is to tell: a tick its phases, a word zeros. [positions, PHASES]."""
    told = F.pad(tick_phases(list(tempi), ticks), (0, 0, 0, 1))  # [rows, ticks + 1, PHASES], the last for words
    return told[where, column.clamp(max=ticks)]


def _draw_score(rng: np.random.Generator) -> Score:
    plan = draw_arrangement(rng, INSTRUMENTS[rng.integers(len(INSTRUMENTS))], _MODES[rng.integers(2)])
    source = _SOURCES[rng.integers(len(_SOURCES))]
    return Score((), plan.tempo_bpm, int(rng.integers(12)), plan.mode, plan.instrument, plan.drums, plan.mood, source)


def _encode_captions(encoder: Any, tokens: list[list[int]], rows: NDArray[np.int64]) -> tuple[Tensor, Tensor, Tensor]:
    """The states of these captions' tokens, [positions, hidden], the row that each is of and its place there,
    [positions] each.
    """
    padded = nn.utils.rnn.pad_sequence([torch.tensor(tokens[row]) for row in rows], batch_first=True)
    mask = padded != 0
    states = encoder(input_ids=padded, attention_mask=mask.long()).last_hidden_state
    where, column = mask.nonzero(as_tuple=True)
    return states[mask], where, column


@torch.no_grad()
def _measure_accuracies(
    encoder: Any, tokens: list[list[int]], heads: nn.ModuleDict, facts: CaptionFacts, ticks: int
) -> dict[str, float]:
    """Of the last captions, by the mean of their words; a tempo is right within two bins.

    What a caption leaves out counts too.
    """
    rows = np.arange(len(tokens) - _HELD_OUT, len(tokens))
    states, where, column = _encode_captions(encoder, tokens, rows)
    states, where = states[column >= ticks], where[column >= ticks]
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


@torch.no_grad()
def _measure_tick_accuracy(
    encoder: Any,
    tokens: list[list[int]],
    heads: nn.ModuleDict,
    tempi: NDArray[np.float64],
    texts: list[str],
    ticks: int,
) -> float:
    """Of the last captions' ticks, where a tempo is said by its number: the part whose place in the beat is told within
    20 ms.
    """
    rows = np.array([row for row in range(len(tokens) - _HELD_OUT, len(tokens)) if f"{tempi[row]:.0f}" in texts[row]])
    states, where, column = _encode_captions(encoder, tokens, rows)
    told, right = heads["beat"](states), _tick_targets(tempi[rows], ticks, where, column)
    cosine, sine = 0, len(LEVELS)
    off = torch.atan2(told[:, sine], told[:, cosine]) - torch.atan2(right[:, sine], right[:, cosine])
    off = torch.remainder(off + math.pi, 2 * math.pi) - math.pi
    late_s = off.abs() / (2 * math.pi) * 60 / torch.from_numpy(tempi[rows]).float()[where]
    return float((late_s[column < ticks] < 0.02).float().mean())


def _one_hot(values: list[int], size: int) -> Tensor:
    return F.one_hot(torch.tensor(values), size).float()
