"""The outcomes of a request: a finished clip, or why there is none."""

import base64
import html
import os
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from musicgen.audio.encode import FORMATS, encode_audio
from musicgen.audio.spectrogram import draw_spectrogram
from musicgen.errors import RowError
from musicgen.request import Request


@dataclass(frozen=True, slots=True)
class Clip:
    """The codes and the audio of one request. A notebook shows it with a player and, with matplotlib, a spectrogram."""

    request: Request
    codes: NDArray[np.int16]  # [codebooks, frames]
    audio: NDArray[np.float32]  # [channels, samples], nominally in [-1, 1]
    sample_rate: int
    engine: str = ""  # fingerprint of the engine when it was made
    prompt_tokens: int | None = None  # tokens of the whole prompt, however many the text encoder takes; None: not known
    prompt_unknown: int | None = None  # those of them that the text encoder does not know

    @property
    def duration_s(self) -> float:
        """The length of the audio in seconds."""
        return self.audio.shape[-1] / self.sample_rate

    def save(self, path: str | os.PathLike[str], loudness_lufs: float | None = None) -> None:
        """Write the audio to a file of the format that the name ends in: .flac, .wav, .ogg or .mp3.

        A file of this name is overwritten, a folder that is missing is made. The bytes are those that a job writes.
        Audio beyond full scale is scaled down; with `loudness_lufs` it is brought to that loudness first. Raises
        ValueError for another ending, OSError if the file cannot be written.
        """
        file_format = Path(path).suffix.lower().removeprefix(".")
        if file_format not in FORMATS:
            endings = ", ".join(f".{name}" for name in FORMATS)
            raise ValueError(f"{os.fspath(path)!r} has no ending of a known audio format; write one of {endings}")
        encoded = encode_audio(self.audio, self.sample_rate, file_format, loudness_lufs)
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_bytes(encoded.data)

    def __repr__(self) -> str:
        return f"<Clip of {self._describe()}: {self.request.prompt!r}>"

    def _repr_html_(self) -> str:
        """Return what a notebook shows."""
        sound = base64.b64encode(encode_audio(self.audio, self.sample_rate, "flac").data).decode()
        title = html.escape(self.request.prompt or "no prompt")
        parts = [
            f"<div><b>{title}</b> ({self._describe()})</div>",
            f'<audio controls src="data:audio/flac;base64,{sound}"></audio>',
        ]
        if find_spec("matplotlib") is not None:
            picture = base64.b64encode(draw_spectrogram(self.audio, self.sample_rate)).decode()
            parts.append(f'<div><img alt="spectrogram of {title}" src="data:image/png;base64,{picture}"></div>')
        return "\n".join(parts)

    def _describe(self) -> str:
        channels = {1: "mono", 2: "stereo"}.get(len(self.audio), f"{len(self.audio)} channels")
        return f"{self.duration_s:.1f} s, {self.sample_rate} Hz {channels}, seed {self.request.seed}"


@dataclass(frozen=True, slots=True)
class Failed:
    """A request that could not be made, and why."""

    request: Request
    error: RowError
