"""Separates a melody's recording into stems, to leave drums and bass out of its chroma (extra `stems`).

audiocraft always separates with Demucs; transformers leaves that to the caller. Separation hardly changes the chroma of
a single voice, but it changes that of a full mix. Demucs is large and slow on a CPU, so it is an extra and off by
default: `pip install '.[stems]'`.
"""

from collections.abc import Callable
from typing import IO

import numpy as np
from numpy.typing import NDArray

from musicgen.audio.read import decode_excerpt
from musicgen.conditioning import chroma
from musicgen.errors import ModelError

Separate = Callable[[IO[bytes], float, str], NDArray[np.float32]]
"""Decodes (file, seconds, name) to the melody's stems, mono at 32 kHz: float32 [samples]."""

STEMS = ("vocals", "other")


def load_demucs(model_name: str = "htdemucs", device: str = "cpu") -> Separate:
    """Load Demucs and return a function that decodes a file and mixes its stems except drums and bass.

    Demucs downloads its weights at first use. Raises ModelError if the extra is not installed.
    """
    try:
        import torch
        from demucs.apply import apply_model
        from demucs.pretrained import get_model
    except ImportError as error:
        raise ModelError(
            f"separating stems needs Demucs, which is not installed ({error}): pip install '.[stems]', "
            "or set generation.stems: false"
        ) from error
    import soxr

    demucs = get_model(model_name).to(device).eval()
    kept_stems = [demucs.sources.index(stem) for stem in STEMS]

    def separate(file: IO[bytes], seconds: float, name: str) -> NDArray[np.float32]:
        audio = decode_excerpt(
            file, sample_rate=demucs.samplerate, seconds=seconds, channels=demucs.audio_channels, name=name
        )
        with torch.inference_mode():
            # shifts=0, because Demucs would otherwise draw random shifts, and a row must give the same clip each time.
            stems = apply_model(demucs, torch.from_numpy(audio)[None].to(device), device=device, shifts=0)[0]
        melody = stems[kept_stems].sum(0).mean(0).cpu().numpy()  # [samples]
        return soxr.resample(melody, demucs.samplerate, chroma.RATE_HZ, quality="HQ").astype(np.float32)

    return separate
