"""From a waveform to a file: levels made safe and measured, samples hashed, bytes that are the same every time."""

from musicgen.audio.encode import FORMATS, Encoded, encode
from musicgen.audio.levels import Levels, measure, normalise, peak_safe
from musicgen.audio.read import decode_audio

__all__ = ["FORMATS", "Encoded", "Levels", "decode_audio", "encode", "measure", "normalise", "peak_safe"]
