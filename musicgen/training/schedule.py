"""How a training goes: its settings, and what they come to at a step."""

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
    # Three batches in ten hold clips of the upper length, the others something between, evenly in the logarithm: where
    # a clip
    # begins, nothing but its conditions says how it goes on.
    crop_s: tuple[float, float] = (2.0, 10.0)
    codebook_weights: tuple[
        Annotated[float, Field(gt=0, allow_inf_nan=False)], ...
    ] = ()  # what each codebook's loss counts; none given: the same
    learning_rate: float = Field(default=1.2e-3, gt=0)
    final_learning_rate: float = Field(default=0.02, ge=0, le=1)  # where the cosine ends, as a part of the peak
    warmup_steps: int = Field(default=200, ge=0)
    weight_decay: float = Field(default=0.1, ge=0)
    clip_norm: float = Field(default=1.0, gt=0)
    ema: float = Field(default=0.999, ge=0, lt=1)  # how much of the average stays at each step
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
            raise ValueError("needs one of two ends: give either steps or hours (--steps N, --hours H)")
        if not 0 < self.crop_s[0] <= self.crop_s[1]:
            raise ValueError(f"crop_s {list(self.crop_s)} is no range of seconds; write [shortest, longest]")
        if self.pattern is not None:
            patterns.layout(self.pattern, 1, 1)  # raises ValueError
        return self

    def progress(self, step: int, seconds: float) -> float:
        """How much of the training is done, 0 .. 1, after `step` steps and `seconds` of running."""
        return min(1.0, step / self.steps if self.steps is not None else seconds / (3600 * (self.hours or 1)))

    def learning_rate_at(self, step: int, seconds: float) -> float:
        """The learning rate of the step after `step`: a linear warm-up, then a cosine."""
        cosine = 0.5 * (1 + math.cos(math.pi * self.progress(step, seconds)))
        warmup = min(1.0, (step + 1) / max(1, self.warmup_steps))
        return self.learning_rate * warmup * (self.final_learning_rate + (1 - self.final_learning_rate) * cosine)

    def averaging_factor(self, step: int) -> float:
        """How much of the weights' average stays at this step; at the beginning less, so that it forgets where it
        began.
        """
        return min(self.ema, (1 + step) / (10 + step))
