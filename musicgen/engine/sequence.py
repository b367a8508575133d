"""The codes of one clip while it is generated: its windows, and the sequence that a slot runs for each of them.

A clip longer than the model's window is made by sliding windows (audiocraft's `MusicGen._generate_tokens`): each begins
one stride after the one before, codes that are known already are forced, and the rest is generated.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from musicgen import patterns
from musicgen.conditioning.conditions import Prepared
from musicgen.conditioning.windows import window_starts
from musicgen.errors import RowError
from musicgen.model.codec.codec import Codes
from musicgen.model.spec import ModelSpec
from musicgen.request import Request

GENERATE = -1  # in a sequence: a code that is to be sampled


def full_pattern_name(spec: ModelSpec) -> str:
    """Return the pattern's name in `musicgen.patterns`: in a stereo model a delay counts pairs of codebooks, left and
    right.
    """
    name = spec.pattern
    return f"stereo_{name}" if spec.channels == 2 and name in ("delay", "partial_delay") else name


@dataclass(frozen=True, slots=True, eq=False)
class Window:
    """What a slot runs.

    `sequence` holds the special token, forced codes, and GENERATE where a code is to be sampled.
    """

    index: int
    start: int  # frame of the clip
    frames: int
    sequence: NDArray[np.int32]  # [codebooks, steps]
    known: int  # steps that are given; the step after them is the first to be sampled

    @property
    def steps(self) -> int:
        """Decode steps after the known steps are in the cache; the last step of a pattern is only output."""
        return self.sequence.shape[1] - self.known


class Sequence:
    """The codes of one clip, filled window by window."""

    def __init__(self, request: Request, prepared: Prepared, spec: ModelSpec):
        self.request = request
        self.prepared = prepared
        self.spec = spec
        self.frames = request.frames(spec.frame_rate)
        self.codes = np.full((spec.codebooks, self.frames), GENERATE, np.int32)
        forced = prepared.forced
        self.prompt_frames = 0 if forced is None else forced.shape[1]
        self.known = self.prompt_frames
        if forced is not None:
            self.codes[:, : self.known] = np.asarray(forced)
        self._starts = window_starts(request, spec)
        self._next_index = 0

    def next_window(self) -> Window | None:
        """Return the next window that has something to generate, or None if the clip is complete."""
        while self._next_index < len(self._starts):
            index, start = self._next_index, self._starts[self._next_index]
            self._next_index += 1
            frames = min(self.spec.max_frames, self.frames - start)
            if start + frames > self.known:
                sequence = patterns.build_steps(
                    full_pattern_name(self.spec), self.codes[:, start : start + frames], self.spec.special_token
                )
                known = int((sequence == GENERATE).any(axis=0).argmax())
                return Window(index, start, frames, sequence.astype(np.int32), known)
        return None

    def ends_with(self, window: Window) -> bool:
        """Whether no window comes after this one."""
        return window.start + window.frames >= self.frames

    def fill_window(self, window: Window, sequence: Codes) -> None:
        """Store the codes of a finished window's sequence [codebooks, steps].

        Raises RowError("generation") if a code is the special token, which marks logits that were not finite.
        """
        end = window.start + window.frames
        codes = patterns.revert_steps(full_pattern_name(self.spec), sequence, window.frames)
        is_bad = (codes == self.spec.special_token).any(axis=0)
        if is_bad.any():
            at_s = (window.start + int(is_bad.argmax())) / self.spec.frame_rate
            raise RowError(
                "generation",
                f"the model's logits were not finite {at_s:.2f} s into the clip; if other rows fail alike its "
                "weights are damaged: "
                "fetch them again; else this row overflows: try model.dtype float32 or a smaller guidance_scale",
            )
        self.codes[:, self.known : end] = codes[:, self.known - window.start :]
        self.known = end

    def measure_share(self, window: Window | None, steps_left: int) -> float:
        """Return the share of the frames to generate that is done, with `steps_left` decode steps of `window` to go."""
        known = float(self.known)
        if window is not None:
            new_frames = window.start + window.frames - self.known  # 0 once the window is filled
            known += new_frames * (1 - min(1.0, steps_left / window.steps))
        due = self.frames - self.prompt_frames
        return max(0.0, (known - self.prompt_frames) / due) if due > 0 else 0.0

    def final_codes(self) -> NDArray[np.int16]:
        """Return the clip's codes int16 [codebooks, frames], without the prompt if the request does not keep it."""
        start = 0 if self.request.keep_continuation else self.prompt_frames
        return self.codes[:, start:].astype(np.int16)
