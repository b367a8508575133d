"""Which clips a step trains on: a new order each epoch, cuts and dropped conditions each step, all from the seed."""

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from musicgen.errors import UserError
from musicgen.model.spec import ModelSpec
from musicgen.training.batch import Batch, TrainingClip, assemble_batch
from musicgen.training.schedule import Schedule
from musicgen.training.tokens import TokenizedData

_FULL = 0.3  # of the steps take the longest cuts, so that the last positions are seen often enough
_VALID_ROWS = 8


class BatchLoader:
    """Batches of the clips `numbers` of `tokens`.

    A step's batch is a function of the seed, the step and the clips seen.
    """

    def __init__(
        self,
        tokens: TokenizedData,
        numbers: Sequence[int],
        tokenizer: Any,
        spec: ModelSpec,
        pattern: str,
        schedule: Schedule,
    ):
        if not numbers:
            raise UserError("nothing to train on: no row is in the split train")
        self.tokens, self.numbers, self.spec, self.pattern, self.schedule = tokens, numbers, spec, pattern, schedule
        prompts = [tokens.clips[number]["prompt"] for number in numbers]
        self._text = [
            np.asarray(tokenizer(p, truncation=True, max_length=512)["input_ids"] if p else [], np.int32)
            for p in prompts
        ]
        longest = max(tokens.clips[number]["frames_end"] - tokens.clips[number]["frames_begin"] for number in numbers)
        self.window = min(spec.max_frames, longest, max(1, round(schedule.crop_s[1] * spec.frame_rate)))
        self.shortest = min(self.window, max(1, round(schedule.crop_s[0] * spec.frame_rate)))

    def __len__(self) -> int:
        return len(self.numbers)

    @property
    def prompts(self) -> list[NDArray[np.int32]]:
        """Each clip's prompt, as token ids."""
        return self._text

    def batches(self, step: int, seen: int, parts: int) -> tuple[list[Batch], int]:
        """The batches of a step, `parts` of equal size, and how many clips they hold together."""
        draw = np.random.default_rng([self.schedule.seed, 1, step])
        shortest, longest = np.log(self.shortest), np.log(self.window)
        frames = self.window if draw.random() < _FULL else round(float(np.exp(draw.uniform(shortest, longest))))
        rows = max(1, round(self.schedule.batch_frames / frames / parts))
        clips = [self.clip(self._clip_index(seen + i)) for i in range(rows * parts)]
        args = self.spec, self.pattern, frames, draw, self.schedule.dropout
        return [assemble_batch(clips[part::parts], *args) for part in range(parts)], len(clips)

    def validation_batches(self, clips: int, text: bool = True, melody: bool = True) -> list[Batch]:
        """The first `clips` clips in whole windows, with or without their conditions: for validation."""
        found = [self.clip(i) for i in range(min(clips, len(self)))]
        kept = [
            replace(c, bins=c.bins if melody else c.bins[:0], text=c.text if text else c.text[:0]) for c in found
        ]  # null conditions
        return [
            assemble_batch(kept[i : i + _VALID_ROWS], self.spec, self.pattern, self.window)
            for i in range(0, len(kept), _VALID_ROWS)
        ]

    def clip(self, index: int) -> TrainingClip:
        """The clip at a place among `numbers`."""
        row = self.tokens.clips[self.numbers[index]]
        return TrainingClip(
            self.tokens.codes[:, row["frames_begin"] : row["frames_end"]],
            self.tokens.bins[row["bins_begin"] : row["bins_end"]],
            self._text[index],
            (row["beat_s"] or 0.0) * self.spec.frame_rate,
        )

    def _clip_index(self, count: int) -> int:
        epoch, place = divmod(count, len(self))
        return int(_epoch_order(len(self), self.schedule.seed, epoch)[place])


@lru_cache(maxsize=4)
def _epoch_order(count: int, seed: int, epoch: int) -> NDArray[np.int64]:
    return np.random.default_rng([seed, 0, epoch]).permutation(count)
