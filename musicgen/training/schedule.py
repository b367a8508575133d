"""Defines the settings of a training, and computes learning rate and averaging at each step."""

import math
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from musicgen import patterns
from musicgen.training.batch import Dropout


class Schedule(BaseModel):
    """The settings of a training. It ends after `steps`, or after `hours` of running."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    steps: int | None = Field(default=None, ge=1)
    hours: float | None = Field(default=None, gt=0)
    pattern: str | None = None  # None: the checkpoint's
    batch_frames: int = Field(default=4000, ge=1)  # of codec frames a step, divided into clips
    # Three batches in ten hold clips of the upper length, the others of lengths between, drawn evenly in the logarithm.
    # Short clips make beginnings frequent, where only the conditions determine how a clip continues.
    crop_s: tuple[float, float] = (2.0, 10.0)
    # The weights of the codebooks' losses; empty: equal weights.
    codebook_weights: tuple[Annotated[float, Field(gt=0, allow_inf_nan=False)], ...] = ()
    learning_rate: float = Field(default=1.2e-3, gt=0)
    final_learning_rate: float = Field(default=0.02, ge=0, le=1)  # at the end of the cosine, as a share of the peak
    warmup_steps: int = Field(default=200, ge=0)
    weight_decay: float = Field(default=0.1, ge=0)
    clip_norm: float = Field(default=1.0, gt=0)
    ema: float = Field(default=0.999, ge=0, lt=1)  # the share of the average that is kept at each step
    dropout: Dropout = Field(default_factory=Dropout)
    text_encoder: Literal["train", "freeze"] = "train"
    dtype: str = "auto"  # of the products; weights are float32
    seed: int = 0
    valid_clips: int = Field(default=64, ge=1)
    valid_steps: int = Field(default=400, ge=1)
    checkpoint_s: float = Field(default=180.0, gt=0)
    export_s: float = Field(default=600.0, gt=0)

    @model_validator(mode="after")
    def _check_settings(self) -> "Schedule":
        if (self.steps is None) == (self.hours is None):
            raise ValueError("has to know when it ends: give either steps or hours (--steps N, --hours H), not both")
        if not 0 < self.crop_s[0] <= self.crop_s[1]:
            raise ValueError(f"crop_s {list(self.crop_s)} is no range of seconds; write [shortest, longest]")
        if self.pattern is not None:
            patterns.layout(self.pattern, 1, 1)  # raises ValueError
        return self

    def warn_if_short(self) -> str:
        """Return a warning if the training ends while it is warming up, or soon after; else an empty text."""
        wanted = 2 * self.warmup_steps
        effect = (
            f"the learning rate grows during the first {self.warmup_steps} (training.warmup_steps), so with fewer than "
            f"{wanted} the exported weights stay close to those that it starts from"
        )
        if self.steps is not None:
            return f"{self.steps} steps are few: {effect}" if self.steps < wanted else ""
        short = (self.hours or 0) * 3600 < wanted  # a second a step: between small models on CPUs and large ones
        return (
            f"{self.hours} hours are short: how many steps they are depends on the machine; {effect}" if short else ""
        )

    def progress(self, step: int, seconds: float) -> float:
        """Return the finished share of the training, 0 .. 1, after `step` steps and `seconds` of running."""
        return min(1.0, step / self.steps if self.steps is not None else seconds / (3600 * (self.hours or 1)))

    def learning_rate_at(self, step: int, seconds: float) -> float:
        """Return the learning rate of the step after `step`: a linear warm-up, then a cosine."""
        cosine = 0.5 * (1 + math.cos(math.pi * self.progress(step, seconds)))
        warmup = min(1.0, (step + 1) / max(1, self.warmup_steps))
        return self.learning_rate * warmup * (self.final_learning_rate + (1 - self.final_learning_rate) * cosine)

    def averaging_factor(self, step: int) -> float:
        """Return the share of the weights' average that is kept at this step.

        It is smaller at the beginning, so that the initial weights have no lasting effect.
        """
        return min(self.ema, (1 + step) / (10 + step))
