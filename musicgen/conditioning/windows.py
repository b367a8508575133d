"""Computes where the windows of a clip begin (as audiocraft's `MusicGen._generate_tokens` does)."""

from musicgen.model.spec import ModelSpec
from musicgen.request import Request

_STRIDE = 0.6  # of a window, for strides that do not fit into it: 18 s of 30 s


def window_starts(request: Request, spec: ModelSpec) -> list[int]:
    """Return the frames at which the windows of a clip begin; a short clip has one window, at 0.

    A stride that is longer than the model's window is replaced by 0.6 of that window, as MusicGen's own stride of 18 s
    is 0.6 of its window of 30 s.
    """
    frames, window = request.frames(spec.frame_rate), spec.max_frames
    stride = max(1, round(request.stride_s * spec.frame_rate))
    if stride >= window:
        stride = max(1, min(window - 1, round(_STRIDE * window)))
    return [stride * index for index in range(-(-max(0, frames - window) // stride) + 1)]
