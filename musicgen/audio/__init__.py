"""Fetches and decodes audio files within bounds, measures and limits levels, and encodes waveforms reproducibly."""

from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from musicgen.audio.encode import FORMATS, EncodedAudio, encode_audio
    from musicgen.audio.levels import Levels, limit_peak, measure_levels, normalize_loudness
    from musicgen.audio.read import decode_audio

__all__ = [
    "FORMATS",
    "EncodedAudio",
    "Levels",
    "decode_audio",
    "encode_audio",
    "limit_peak",
    "measure_levels",
    "normalize_loudness",
]

# Planning uses `fetch` alone; numpy is imported when a waveform is handled.
__getattr__, __dir__, _ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "encode": ["FORMATS", "EncodedAudio", "encode_audio"],
        "levels": ["Levels", "limit_peak", "measure_levels", "normalize_loudness"],
        "read": ["decode_audio"],
    },
)
