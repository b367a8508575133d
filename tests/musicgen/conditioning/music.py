"""Music to condition on, made by rule: notes with harmonics, an attack and a decay, over a little percussion."""

import io
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray

from musicgen.audio.read import decode_excerpt

TUNE = (60, 62, 64, 65, 67, 69, 71, 72, 67, 64, 60, 55)  # MIDI notes


def tune(
    seconds: float, rate: int = 32_000, notes: tuple[int, ...] = TUNE, note_s: float = 0.5, seed: int = 0
) -> NDArray[np.float32]:
    """A tune of plucked notes with drums, float32 [samples], peaking at 0.5."""
    rng = np.random.default_rng(seed)
    audio = np.zeros(round(seconds * rate))
    length = round(note_s * rate)
    time = np.arange(2 * length) / rate
    for index, start in enumerate(range(0, len(audio), length)):
        pitch = 440 * 2 ** ((notes[index % len(notes)] - 69) / 12)
        sound = (
            sum(np.sin(2 * np.pi * pitch * h * time) / h**1.5 for h in range(1, 9))
            * np.minimum(1, time / 0.01)
            * np.exp(-3 * time)
        )
        hit = rng.standard_normal(length // 8) * np.exp(-np.arange(length // 8) / (0.01 * rate))
        for piece, gain in ((sound, 0.3), (hit, 0.05)):
            end = min(len(audio), start + len(piece))
            audio[start:end] += gain * piece[: end - start]
    return (0.5 * audio / np.abs(audio).max()).astype(np.float32)


def encoded(audio: NDArray[np.float32], rate: int = 32_000, kind: str = "WAV", subtype: str | None = None) -> bytes:
    """`audio` [samples] or [samples, channels] as the bytes of a file."""
    file = io.BytesIO()
    soundfile.write(file, audio, rate, format=kind, subtype=subtype)
    return file.getvalue()


def decode_bytes(data: bytes, **options) -> NDArray[np.float32]:
    """What we decode of a file's bytes: by default 30 s in mono at 32 kHz, float32 [channels, samples]."""
    return decode_excerpt(io.BytesIO(data), **{"sample_rate": 32_000, "seconds": 30.0, "name": "a.wav", **options})


def write(path: Path, audio: NDArray[np.float32], rate: int = 32_000) -> Path:
    """`audio` as a file of the kind that the name's suffix says."""
    path.write_bytes(encoded(audio, rate, path.suffix[1:].upper()))
    return path
