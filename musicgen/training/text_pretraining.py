"""Pretrains a small text encoder on captions alone, before the training on music.

MusicGen's text encoder is a trained T5 (frozen: Copet et al. 2023, section 3.2). A small one with random weights would
learn from the decoder's loss alone, in which the instrument outweighs everything else: after a thousand steps tempo,
key and drums had no effect. So the encoder is trained on captions of drawn facts, such that linear heads can read all
facts from the state of every word; then any attention to the text finds them. The states of ticks, if a checkpoint has
them (`musicgen.training.ticks`), are trained to encode their place in the beat only.
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

from musicgen.corpus.caption import draw_caption
from musicgen.training.caption_facts import CaptionFacts, draw_score
from musicgen.training.ticks import LEVELS, PHASES, init_tick_embeddings, tick_ids, tick_phases

_HELD_OUT = 1_000
_CAPTIONS_PER_STEP, _TICK_CAPTIONS_PER_STEP = 64, 16
_LEARNING_RATE, _LEARNING_RATE_WITH_TICKS = 3e-3, 2e-3
_STEPS, _STEPS_WITH_TICKS = 1_000, 1_600
_WARMUP_STEPS = 100  # of the training of ticks alone
# The ticks are trained alone until the error of their phases is below this (0.4 without any knowledge), or for so many
# steps.
_TICK_ERROR, _MAX_TICK_STEPS = 0.05, 2_000
_BEAT_WEIGHT = 30.0  # of that error, next to the losses of the facts


@dataclass(frozen=True, slots=True, eq=False)
class PretrainingResult:
    """The result of pretraining: accuracy per fact on unseen captions, and the linear heads that read the facts."""

    # By fact; "beat" is the share of the ticks whose place in the beat is predicted within 20 ms, of captions that give
    # their tempo as a number.
    accuracies: dict[str, float]
    heads: Mapping[str, nn.Linear]  # by fact; "beat" gives the phases of ticks


def train_text_encoder(
    encoder: Any,
    tokenizer: Any,
    seed: int,
    on_message: Callable[[str], None] = lambda text: None,
    captions: int = 24_000,
    steps: int | None = None,
    max_tick_steps: int = _MAX_TICK_STEPS,
) -> PretrainingResult:
    """Train a T5 encoder on captions drawn from `seed`.

    If its tokenizer has ticks, they are trained alone first, for at most `max_tick_steps`; then `steps` of both.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the order of sums depends on the number of threads
    try:
        training = _TextPretraining(encoder, tokenizer, seed, captions)
        training.train_ticks(max_tick_steps, on_message)
        training.train_facts(steps, on_message)
        return training.measure(on_message)
    finally:
        torch.set_num_threads(threads)


class _TextPretraining:
    """The captions of one pretraining with their facts, and the linear heads that read the facts."""

    def __init__(self, encoder: Any, tokenizer: Any, seed: int, captions: int):
        self.encoder, self.captions = encoder, captions
        self.rng = np.random.default_rng([seed, 2])
        scores = [draw_score(self.rng) for _ in range(captions + _HELD_OUT)]
        self.texts = [draw_caption(score, self.rng) for score in scores]
        self.tokens: list[list[int]] = tokenizer(self.texts)["input_ids"]
        self.facts, self.tempi = CaptionFacts.from_scores(scores), np.array([score.tempo_bpm for score in scores])
        self.ticks = len(tick_ids(tokenizer))
        width = encoder.config.d_model
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.heads = nn.ModuleDict(
                {name: nn.Linear(width, targets.shape[1]) for name, targets in self.facts.items()}
            )
            if self.ticks:
                self.heads["beat"] = nn.Linear(width, PHASES)
                init_tick_embeddings(encoder.shared.weight, tick_ids(tokenizer))
        self.parameters = [*encoder.parameters(), *self.heads.parameters()]
        self.optimizer = torch.optim.AdamW(self.parameters, weight_decay=0.01, fused=True)

    def train_ticks(self, max_steps: int, on_message: Callable[[str], None]) -> None:
        """Train the ticks alone until they encode where beats fall; with the facts at the same time they do not learn.

        For a tokenizer without ticks only the message is given.
        """
        on_message(
            f"text encoder: learning what {self.captions} captions say"
            + (", first where beats fall" if self.ticks else "")
        )
        if not self.ticks:
            return
        with_number = np.array([row for row in range(self.captions) if self._names_tempo(row)])
        errors: deque[float] = deque(maxlen=50)
        for step in range(max_steps):
            rows = self.rng.choice(with_number, _TICK_CAPTIONS_PER_STEP)
            states, caption_index, column = _encode_captions(self.encoder, self.tokens, rows)
            loss = self._tick_loss(states, rows, caption_index, column)
            self._update(loss, min(1, (step + 1) / _WARMUP_STEPS))
            errors.append(loss.item())
            if step % 100 == 99:
                on_message(f"text encoder: {step + 1} steps, error of phases {np.mean(errors):.4f}")
            if len(errors) == errors.maxlen and np.mean(errors) < _TICK_ERROR:
                break

    def train_facts(self, steps: int | None, on_message: Callable[[str], None]) -> None:
        """Train all facts for `steps` (None: the default number)."""
        steps = steps or (_STEPS_WITH_TICKS if self.ticks else _STEPS)
        tokens_without_ticks = [ids[self.ticks :] for ids in self.tokens]
        for step in range(steps):
            # Every second step reads captions without their ticks, which are most of a caption: four times as many.
            with_ticks = bool(self.ticks) and step % 2 == 1
            count = _TICK_CAPTIONS_PER_STEP if with_ticks else _CAPTIONS_PER_STEP
            rows = self.rng.integers(self.captions, size=count)
            tokens = self.tokens if with_ticks else tokens_without_ticks
            states, caption_index, column = _encode_captions(self.encoder, tokens, rows)
            is_word = column >= self.ticks if with_ticks else torch.ones_like(column, dtype=torch.bool)
            loss = torch.zeros(())
            for name, targets in self.facts.items():
                word_targets = targets[torch.from_numpy(rows)][caption_index[is_word]]
                entropy = F.binary_cross_entropy_with_logits if name == "scale" else F.cross_entropy
                loss = loss + entropy(self.heads[name](states[is_word]), word_targets)
            if with_ticks:
                loss = loss + _BEAT_WEIGHT * self._tick_loss(states, rows, caption_index, column)
            self._update(loss, min(1, 10 * (step + 1) / steps) * 0.5 * (1 + math.cos(math.pi * step / steps)))
            if step % 400 == 399:
                on_message(f"text encoder: {step + 1} steps, loss {loss.item():.3f}")

    def measure(self, on_message: Callable[[str], None]) -> PretrainingResult:
        """Measure how often the heads are right on captions that were held out."""
        accuracies = self._measure_accuracies()
        if self.ticks:
            accuracies["beat"] = self._measure_tick_accuracy()
        shares = ", ".join(f"{name} {share:.0%}" for name, share in accuracies.items())
        on_message(f"text encoder: accuracy {shares}")
        return PretrainingResult(
            accuracies, {name: head for name, head in self.heads.items() if isinstance(head, nn.Linear)}
        )

    def _names_tempo(self, row: int) -> bool:
        """Return whether a caption gives its tempo as a number."""
        return f"{self.tempi[row]:.0f}" in self.texts[row]

    def _tick_loss(self, states: Tensor, rows: NDArray[np.int64], caption_index: Tensor, column: Tensor) -> Tensor:
        targets = _tick_targets(self.tempi[rows], self.ticks, caption_index, column)
        return F.mse_loss(self.heads["beat"](states), targets)

    def _update(self, loss: Tensor, rate: float) -> None:
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.parameters, 1.0)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * (_LEARNING_RATE_WITH_TICKS if self.ticks else _LEARNING_RATE)
        self.optimizer.step()

    @torch.no_grad()
    def _measure_accuracies(self) -> dict[str, float]:
        """Measure the held-out captions by the mean of their words' states; a tempo is right within two bins.

        Facts that a caption leaves out count too.
        """
        rows = np.arange(len(self.tokens) - _HELD_OUT, len(self.tokens))
        states, caption_index, column = _encode_captions(self.encoder, self.tokens, rows)
        is_word = column >= self.ticks
        states, caption_index = states[is_word], caption_index[is_word]
        sums = torch.zeros(len(rows), states.shape[1]).index_add_(0, caption_index, states)
        means = sums / caption_index.bincount()[:, None]
        accuracies = {}
        for name, all_targets in self.facts.items():
            predictions, targets = self.heads[name](means), all_targets[torch.from_numpy(rows)]
            if name == "scale":
                right = (predictions > 0) == (targets > 0)
            else:
                right = (predictions.argmax(1) - targets.argmax(1)).abs() <= (2 if name == "tempo" else 0)
            accuracies[name] = float(right.float().mean())
        return accuracies

    @torch.no_grad()
    def _measure_tick_accuracy(self) -> float:
        """Measure the share of the ticks whose place in the beat is predicted within 20 ms.

        Of the held-out captions only those count that give their tempo as a number.
        """
        held_out = range(len(self.tokens) - _HELD_OUT, len(self.tokens))
        rows = np.array([row for row in held_out if self._names_tempo(row)])
        states, caption_index, column = _encode_captions(self.encoder, self.tokens, rows)
        predictions = self.heads["beat"](states)
        targets = _tick_targets(self.tempi[rows], self.ticks, caption_index, column)
        cosine, sine = 0, len(LEVELS)
        error = torch.atan2(predictions[:, sine], predictions[:, cosine])
        error = error - torch.atan2(targets[:, sine], targets[:, cosine])
        error = torch.remainder(error + math.pi, 2 * math.pi) - math.pi
        error_s = error.abs() / (2 * math.pi) * 60 / torch.from_numpy(self.tempi[rows]).float()[caption_index]
        return float((error_s[column < self.ticks] < 0.02).float().mean())


def _tick_targets(tempi: NDArray[np.float64], ticks: int, caption_index: Tensor, column: Tensor) -> Tensor:
    """Return each position's target, [positions, PHASES]: the phases of a tick, zeros for a word."""
    # [captions, ticks + 1, PHASES], the last for words
    phases = F.pad(tick_phases(list(tempi), ticks), (0, 0, 0, 1))
    return phases[caption_index, column.clamp(max=ticks)]


def _encode_captions(encoder: Any, tokens: list[list[int]], rows: NDArray[np.int64]) -> tuple[Tensor, Tensor, Tensor]:
    """Encode captions: the states of all their tokens, [positions, hidden].

    Also returns, [positions] each, the index in `rows` of each position's caption and its column there.
    """
    padded = nn.utils.rnn.pad_sequence([torch.tensor(tokens[row]) for row in rows], batch_first=True)
    mask = padded != 0
    states = encoder(input_ids=padded, attention_mask=mask.long()).last_hidden_state
    caption_index, column = mask.nonzero(as_tuple=True)
    return states[mask], caption_index, column
