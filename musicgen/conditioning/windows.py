"""Where the windows of a clip begin (audiocraft's `MusicGen._generate_tokens`)."""

from musicgen.model.spec import ModelSpec
from musicgen.request import Request

_STRIDE = 0.6  # of a window, for strides that do not fit into it: 18 of 30 s


def window_starts(request: Request, spec: ModelSpec) -> list[int]:
    """The frames at which the windows of a clip begin; a short clip has one, at 0.

    A stride that the model's window does not hold (18 s is MusicGen's own, for 30 s) becomes the same part of its
    window.
    """
    frames, window = request.frames(spec.frame_rate), spec.max_frames
    stride = max(1, round(request.stride_s * spec.frame_rate))
    if stride >= window:
        stride = max(1, min(window - 1, round(_STRIDE * window)))
    return [stride * i for i in range(-(-max(0, frames - window) // stride) + 1)]
