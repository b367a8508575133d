"""Assembles batches: cuts clips to one length, lays them out in a pattern, and drops some of their conditions."""

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

_BAR_BEATS = 4  # beats
# This share of the cuts begins at any frame although their beat is known, as continuations and the later windows of a
# long clip do.
_UNALIGNED_SHARE = 0.125
_PIECE_FRAMES = (10, 25, 50, 100, 250)  # lengths of the pieces of the past that are hidden


@dataclass(frozen=True, slots=True, eq=False)
class TrainingClip:
    """A clip of the training data as codes, pitch classes and token ids."""

    codes: NDArray[np.int16]  # [codebooks, frames]
    pitch_classes: NDArray[np.int8]  # one for each `chroma.HOP` samples at `chroma.RATE_HZ`; empty: no melody
    text: NDArray[np.int32]  # token ids with the end token; empty: no prompt
    beat: float = 0.0  # length in frames, where the first beat is at frame 0; 0: not known


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """The tensors of B clips.

    Step s of the pattern predicts step s + 1, so the inputs lack the last step and the targets the first one.
    """

    inputs: Tensor  # int64 [B, codebooks, steps - 1]
    targets: Tensor  # int64 [B, codebooks, steps - 1], IGNORED where a step has no code
    text: Tensor  # int64 [B, S], padded with 0
    # int64 [B], at least 1 and the checkpoint's `text_length`: positions of the text, with zeros after the tokens
    text_lengths: Tensor
    text_kept: Tensor  # bool [B]; False: the text's states are replaced by zeros
    pitch_classes: Tensor  # int64 [B, chroma length], all 0 where the melody is dropped; [B, 0] in text models

    @property
    def frames(self) -> int:
        """Return the number of codes of the first codebook, without gaps."""
        return int((self.targets[:, 0] != IGNORED).sum())

    def to(self, device: torch.device) -> "Batch":
        """Return the batch on a device."""
        return Batch(*(getattr(self, field.name).to(device) for field in fields(self)))


class Dropout(BaseModel):
    """The probabilities with which conditions are dropped.

    A dropped condition is replaced by the null condition, which guidance and rows without that condition use at
    generation. The past codes of a row nearly determine the next ones, so a small model learns for hours without using
    melody and prompt. Where pieces of the past are hidden (replaced by the special token), it has to use them.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    all: float = Field(default=0.1, ge=0, le=1)  # text and melody together: the null branch of guidance
    text: float = Field(default=0.1, ge=0, le=1)  # text alone
    melody: float = Field(default=0.4, ge=0, le=1)  # melody alone: rows with only a prompt
    past: float = Field(default=0.5, ge=0, le=1)  # rows with pieces of their past hidden


def assemble_batch(
    clips: Sequence[TrainingClip],
    spec: ModelSpec,
    pattern: str,
    frames: int,
    rng: np.random.Generator | None = None,
    dropout: Dropout | None = None,
) -> Batch:
    """Assemble a batch of clips, each cut to `frames` (or its own length, if shorter).

    With `rng` the cuts begin at drawn frames (if the beat is known, seven of eight at a multiple of four beats), and
    with `dropout` too conditions are dropped. Without `rng` the cuts begin at 0 and all conditions are kept.
    """
    rows = [_cut_clip(clip, spec, frames, rng) for clip in clips]
    layouts = [patterns.build_steps(pattern, codes, spec.special_token) for codes, _ in rows]
    visible = layouts
    if rng is not None and dropout is not None:
        visible = [
            patterns.build_steps(pattern, _hide_past(codes, spec.special_token, dropout.past, rng), spec.special_token)
            for codes, _ in rows
        ]
    steps = max(layout.shape[1] for layout in layouts)
    sequences = np.full((len(rows), spec.codebooks, steps), spec.special_token, np.int64)
    targets = np.full((len(rows), spec.codebooks, steps), IGNORED, np.int64)
    for row, (layout, inputs) in enumerate(zip(layouts, visible, strict=True)):
        sequences[row, :, : layout.shape[1]] = inputs
        targets[row, :, : layout.shape[1]] = np.where(layout == spec.special_token, IGNORED, layout)

    shortest_text = max(1, spec.text_length)
    text_lengths = np.array([max(shortest_text, len(clip.text)) for clip in clips])
    text = np.zeros((len(rows), text_lengths.max()), np.int64)
    for row, clip in enumerate(clips):
        text[row, : len(clip.text)] = clip.text
    text_kept = np.array([len(clip.text) > 0 for clip in clips])
    pitch_classes = np.stack([pitch_classes for _, pitch_classes in rows]).astype(np.int64)
    if rng is not None and dropout is not None:
        chances = rng.random(len(rows))
        chances_if_kept = chances - dropout.all
        no_text = chances < dropout.all + dropout.text
        no_melody = (chances < dropout.all) | (
            (chances_if_kept >= dropout.text) & (chances_if_kept < dropout.text + dropout.melody)
        )
        text_kept &= ~no_text
        pitch_classes[no_melody] = 0
        # The null branch of guidance is as long as the text that it replaces, but a row without a prompt has a single
        # position (or `text_length`). Training has both.
        text_lengths = np.where(
            no_text & (rng.random(len(rows)) < 0.5) & (chances >= dropout.all), shortest_text, text_lengths
        )
    return Batch(
        inputs=torch.from_numpy(sequences[:, :, :-1]),
        targets=torch.from_numpy(targets[:, :, 1:]),
        text=torch.from_numpy(text),
        text_lengths=torch.from_numpy(text_lengths.astype(np.int64)),
        text_kept=torch.from_numpy(text_kept),
        pitch_classes=torch.from_numpy(pitch_classes),
    )


def _cut_clip(
    clip: TrainingClip, spec: ModelSpec, frames: int, rng: np.random.Generator | None
) -> tuple[NDArray[np.int16], NDArray[np.int8]]:
    """Cut `frames` of a clip's codes, and the pitch classes from there on.

    The latter are repeated to the prefix's length, as a melody's are at generation.
    """
    classes_per_frame = chroma.RATE_HZ / chroma.HOP / spec.frame_rate
    spare_frames = clip.codes.shape[1] - frames
    first_class = first_frame = 0
    if rng is not None and spare_frames > 0 and clip.beat and rng.random() >= _UNALIGNED_SHARE:
        # Begin at a bar, as generated clips do: only then can a small model infer from the tempo where beats fall.
        bar_frames = _BAR_BEATS * clip.beat
        first_frame = round(int(rng.integers(0, int(spare_frames / bar_frames) + 1)) * bar_frames)
        first_class = round(first_frame * classes_per_frame)
    elif rng is not None and spare_frames > 0:
        first_class = int(rng.integers(0, int(spare_frames * classes_per_frame) + 1))
        first_frame = round(first_class / classes_per_frame)  # at the start of a pitch class, so that both are aligned
    pitch_classes = clip.pitch_classes[first_class:] if len(clip.pitch_classes) > first_class else np.zeros(1, np.int8)
    return clip.codes[:, first_frame : first_frame + frames], np.resize(pitch_classes, spec.chroma_length)


def _hide_past(
    codes: NDArray[np.int16], special_token: int, probability: float, rng: np.random.Generator
) -> NDArray[np.int16]:
    """Hide a drawn share of the codes, in pieces of a drawn length, with probability `probability`."""
    if rng.random() >= probability:
        return codes
    frames = codes.shape[1]
    piece_frames = int(_PIECE_FRAMES[rng.integers(len(_PIECE_FRAMES))])
    hidden = np.repeat(rng.random(-(-frames // piece_frames)) < rng.random(), piece_frames)[:frames]
    return np.where(hidden, np.int16(special_token), codes)
