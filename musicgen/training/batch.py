"""What the network sees at once: clips cut to one length, laid out in a pattern, some of their conditions dropped."""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from musicgen import patterns
from musicgen.conditioning import chroma
from musicgen.model.spec import ModelSpec
from musicgen.training.loss import IGNORED

_BAR = 4  # beats
# of the cuts begin anywhere though their beat is known, as continuations and the later windows of a long clip do
_ANYWHERE = 0.125
_PIECES = (10, 25, 50, 100, 250)  # frames of a hidden piece of the past


@dataclass(frozen=True, slots=True, eq=False)
class TrainingClip:
    """A clip of the training data, analysed."""

    codes: NDArray[np.int16]  # [codebooks, frames]
    bins: NDArray[np.int8]  # pitch classes, one each `chroma.HOP` samples at `chroma.RATE_HZ`; empty: none
    text: NDArray[np.int32]  # token ids with the end token; empty: no prompt
    beat: float = 0.0  # frames, from the first on; 0: not known


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Tensors of B clips.

    The pattern's step s predicts step s + 1, so inputs lack the last step and targets the first.
    """

    inputs: Tensor  # int64 [B, codebooks, steps - 1]
    targets: Tensor  # int64 [B, codebooks, steps - 1], IGNORED where a step has no code
    text: Tensor  # int64 [B, S], padded with 0
    # int64 [B], at least 1 and the checkpoint's `text_length`: positions, of which those beyond the tokens are zeros
    text_lengths: Tensor
    text_kept: Tensor  # bool [B]; False: zeros in its place
    bins: Tensor  # int64 [B, chroma length], all 0 where the melody is dropped; [B, 0] in text models

    @property
    def frames(self) -> int:
        """Real codes of the first codebook."""
        return int((self.targets[:, 0] != IGNORED).sum())

    def to(self, device: torch.device) -> "Batch":
        """The batch on a device."""
        return Batch(*(getattr(self, field.name).to(device) for field in fields(self)))


class Dropout(BaseModel):
    """How often conditions are dropped. What is dropped is what guidance and rows without it see at generation.

    A row's own past says nearly all there is to say about its next codes, so that a small model learns for hours
    without a look at melody and prompt. Where pieces of the past are hidden (the special token in their place) they are
    all it has.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    all: float = Field(default=0.1, ge=0, le=1)  # text and melody together: the null branch of guidance
    text: float = Field(default=0.1, ge=0, le=1)  # text alone
    melody: float = Field(default=0.4, ge=0, le=1)  # melody alone: rows with only a prompt
    past: float = Field(default=0.5, ge=0, le=1)  # rows that see their past in pieces only


def assemble_batch(
    clips: Sequence[TrainingClip],
    spec: ModelSpec,
    pattern: str,
    frames: int,
    draw: np.random.Generator | None = None,
    dropout: Dropout | None = None,
) -> Batch:
    """A batch of clips, each cut to `frames` (or its own length, if shorter).

    With `draw` the cuts begin anywhere (where the beat is known: seven of eight four beats apart) and conditions are
    dropped; without, the cuts begin at 0 and all is kept.
    """
    rows = [_cut_clip(clip, spec, frames, draw) for clip in clips]
    layouts = [patterns.build_steps(pattern, codes, spec.special_token) for codes, _ in rows]
    heard = layouts
    if draw is not None and dropout is not None:
        heard = [
            patterns.build_steps(pattern, _hide_past(codes, spec.special_token, dropout.past, draw), spec.special_token)
            for codes, _ in rows
        ]
    steps = max(layout.shape[1] for layout in layouts)
    sequences = np.full((len(rows), spec.codebooks, steps), spec.special_token, np.int64)
    targets = np.full((len(rows), spec.codebooks, steps), IGNORED, np.int64)
    for row, (layout, inputs) in enumerate(zip(layouts, heard, strict=True)):
        sequences[row, :, : layout.shape[1]] = inputs
        targets[row, :, : layout.shape[1]] = np.where(layout == spec.special_token, IGNORED, layout)

    shortest = max(1, spec.text_length)
    lengths = np.array([max(shortest, len(clip.text)) for clip in clips])
    text = np.zeros((len(rows), lengths.max()), np.int64)
    for row, clip in enumerate(clips):
        text[row, : len(clip.text)] = clip.text
    kept = np.array([len(clip.text) > 0 for clip in clips])
    bins = np.stack([bins for _, bins in rows]).astype(np.int64)
    if draw is not None and dropout is not None:
        luck = draw.random(len(rows))
        alone = luck - dropout.all
        no_text = luck < dropout.all + dropout.text
        no_melody = (luck < dropout.all) | ((alone >= dropout.text) & (alone < dropout.text + dropout.melody))
        kept &= ~no_text
        bins[no_melody] = 0
        # Guidance's null branch is as long as the text it stands for; a row without a prompt has a single position (or
        # `text_length`).
        lengths = np.where(no_text & (draw.random(len(rows)) < 0.5) & (luck >= dropout.all), shortest, lengths)
    return Batch(
        inputs=torch.from_numpy(sequences[:, :, :-1]),
        targets=torch.from_numpy(targets[:, :, 1:]),
        text=torch.from_numpy(text),
        text_lengths=torch.from_numpy(lengths.astype(np.int64)),
        text_kept=torch.from_numpy(kept),
        bins=torch.from_numpy(bins),
    )


def _cut_clip(
    clip: TrainingClip, spec: ModelSpec, frames: int, draw: np.random.Generator | None
) -> tuple[NDArray[np.int16], NDArray[np.int8]]:
    """`frames` of a clip's codes, and the pitch classes from there on, repeated to the prefix's length as a melody's
    are.
    """
    rate = chroma.RATE_HZ / chroma.HOP / spec.frame_rate  # pitch classes a frame
    spare = clip.codes.shape[1] - frames
    first = start = 0
    if draw is not None and spare > 0 and clip.beat and draw.random() >= _ANYWHERE:
        # As a clip begins that is generated: only then can a small model tell from the tempo where the next beat falls.
        bar = _BAR * clip.beat
        start = round(int(draw.integers(0, int(spare / bar) + 1)) * bar)
        first = round(start * rate)
    elif draw is not None and spare > 0:
        first = int(draw.integers(0, int(spare * rate) + 1))
        start = round(first / rate)  # at a pitch class, so that both keep step
    bins = clip.bins[first:] if len(clip.bins) > first else np.zeros(1, np.int8)
    return clip.codes[:, start : start + frames], np.resize(bins, spec.chroma_length)


def _hide_past(codes: NDArray[np.int16], token: int, chance: float, draw: np.random.Generator) -> NDArray[np.int16]:
    """The codes with pieces of some length hidden: a part between none and all of them."""
    if draw.random() >= chance:
        return codes
    frames = codes.shape[1]
    length = int(_PIECES[draw.integers(len(_PIECES))])
    hidden = np.repeat(draw.random(-(-frames // length)) < draw.random(), length)[:frames]
    return np.where(hidden, np.int16(token), codes)
