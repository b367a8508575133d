"""Draws the batches of each training step from the seed: order of the clips, cuts and dropped conditions."""

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

_FULL_LENGTH_SHARE = 0.3  # of the steps use the longest cuts, so that the last positions are trained often enough
_VALIDATION_ROWS = 8


class BatchLoader:
    """Makes batches of the clips `clip_numbers` of `tokens`.

    The batch of a step is a function of the seed, the step and the number of clips seen before.
    """

    def __init__(
        self,
        tokens: TokenizedData,
        clip_numbers: Sequence[int],
        tokenizer: Any,
        spec: ModelSpec,
        pattern: str,
        schedule: Schedule,
    ):
        if not clip_numbers:
            raise UserError("nothing to train on: no row is in the split train")
        self.tokens, self.clip_numbers, self.spec, self.pattern, self.schedule = (
            tokens,
            clip_numbers,
            spec,
            pattern,
            schedule,
        )
        prompts = [tokens.clips[number]["prompt"] for number in clip_numbers]
        self._prompt_ids = [
            np.asarray(tokenizer(prompt, truncation=True, max_length=512)["input_ids"] if prompt else [], np.int32)
            for prompt in prompts
        ]
        longest = max(
            tokens.clips[number]["frames_end"] - tokens.clips[number]["frames_begin"] for number in clip_numbers
        )
        self.window = min(spec.max_frames, longest, max(1, round(schedule.crop_s[1] * spec.frame_rate)))
        self.shortest = min(self.window, max(1, round(schedule.crop_s[0] * spec.frame_rate)))

    def __len__(self) -> int:
        return len(self.clip_numbers)

    @property
    def prompts(self) -> list[NDArray[np.int32]]:
        """Return the token ids of each clip's prompt."""
        return self._prompt_ids

    def batches(self, step: int, clips_seen: int, part_count: int) -> tuple[list[Batch], int]:
        """Return the batches of a step, `part_count` of equal size, and the number of clips in them."""
        rng = np.random.default_rng([self.schedule.seed, 1, step])
        shortest, longest = np.log(self.shortest), np.log(self.window)
        frames = (
            self.window if rng.random() < _FULL_LENGTH_SHARE else round(float(np.exp(rng.uniform(shortest, longest))))
        )
        clips_per_part = max(1, round(self.schedule.batch_frames / frames / part_count))
        clips = [self.clip(self._clip_index(clips_seen + index)) for index in range(clips_per_part * part_count)]
        arguments = self.spec, self.pattern, frames, rng, self.schedule.dropout
        return [assemble_batch(clips[part::part_count], *arguments) for part in range(part_count)], len(clips)

    def validation_batches(self, clips: int, with_text: bool = True, with_melody: bool = True) -> list[Batch]:
        """Return batches of the first `clips` clips in whole windows, with or without their conditions."""
        whole_clips = [self.clip(start) for start in range(min(clips, len(self)))]
        conditioned_clips = [
            replace(
                clip,
                pitch_classes=clip.pitch_classes if with_melody else clip.pitch_classes[:0],
                text=clip.text if with_text else clip.text[:0],
            )
            for clip in whole_clips
        ]  # null conditions
        return [
            assemble_batch(conditioned_clips[start : start + _VALIDATION_ROWS], self.spec, self.pattern, self.window)
            for start in range(0, len(conditioned_clips), _VALIDATION_ROWS)
        ]

    def clip(self, index: int) -> TrainingClip:
        """Return the clip at an index of `clip_numbers`."""
        row = self.tokens.clips[self.clip_numbers[index]]
        return TrainingClip(
            self.tokens.codes[:, row["frames_begin"] : row["frames_end"]],
            self.tokens.pitch_classes[row["bins_begin"] : row["bins_end"]],
            self._prompt_ids[index],
            (row["beat_s"] or 0.0) * self.spec.frame_rate,
        )

    def _clip_index(self, clips_seen: int) -> int:
        epoch, position = divmod(clips_seen, len(self))
        return int(_epoch_order(len(self), self.schedule.seed, epoch)[position])


@lru_cache(maxsize=4)
def _epoch_order(count: int, seed: int, epoch: int) -> NDArray[np.int64]:
    return np.random.default_rng([seed, 0, epoch]).permutation(count)
