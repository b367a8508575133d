"""Analyzes a request's melody into pitch classes for each window of the clip.

A clip of one window uses the melody's first 30 s; the chroma of a shorter melody is repeated (as in transformers and
audiocraft's `ChromaStemConditioner`). In a longer clip each window uses the 30 s of melody from its own start. There
the audio itself is repeated before the chroma is computed, so that the melody's end continues with its beginning
(audiocraft's `MusicGen._generate_tokens`). Each melody is brought to the conditioning length before it is put in a
batch, because padding within the batch would shift positions.
"""

from collections.abc import Sequence
from threading import Lock
from typing import IO

import numpy as np
from numpy.typing import NDArray

from musicgen.audio.levels import SILENCE_DBFS
from musicgen.audio.read import decode_excerpt
from musicgen.audio.sound_places import redact_uri
from musicgen.conditioning import chroma
from musicgen.conditioning.audio_memo import AudioMemo
from musicgen.conditioning.stems import Separate, load_demucs
from musicgen.errors import ModelError, RowError
from musicgen.request import Request

_REMEMBERED = 4096  # clips, of a few hundred bytes per window


class MelodyAnalyzer:
    """Fetches, checks and analyzes melodies. Thread-safe; each file and window is analyzed once.

    `length` is the checkpoint's chroma length in positions. `separate` removes drums and bass for requests with
    `stems`; None loads Demucs when the first such request is prepared.
    """

    def __init__(self, length: int, n_chroma: int = chroma.N_CHROMA, separate: Separate | None = None):
        self.length = length
        self.n_chroma = n_chroma
        self._separate = separate
        self._loading = Lock()
        self._memo: AudioMemo[tuple[NDArray[np.int8], ...]] = AudioMemo(_REMEMBERED, "melody")

    def pitch_classes(self, request: Request, starts_s: Sequence[float] | None = None) -> tuple[NDArray[np.int8], ...]:
        """Return the strongest pitch class at each position: int8 [length] for every window that begins at `starts_s`.

        `starts_s` None is for a clip of one window. Raises RowError("melody"): the file cannot be fetched, has changed
        since it was planned, or cannot be decoded.
        """
        uri, stems = request.melody_uri or "", request.stems
        windows = None if starts_s is None else tuple(starts_s)
        return self._memo.get(
            uri,
            request.melody_sha256,
            lambda file: self._analyze(file, uri, windows, stems),
            settings=(windows, stems),
        )

    def _analyze(
        self, file: IO[bytes], uri: str, windows: tuple[float, ...] | None, stems: bool
    ) -> tuple[NDArray[np.int8], ...]:
        seconds = chroma.CHUNK_S + (max(windows) if windows else 0.0)
        read_melody = self._load_separator() if stems else _decode_mono
        audio = read_melody(file, seconds, redact_uri(uri))
        _refuse_silence(audio, redact_uri(uri), stems)
        if windows is None:
            classes = chroma.strongest_pitch_classes(audio, self.n_chroma)
            return (np.resize(classes, self.length),)  # repeats, or cuts
        return tuple(self._analyze_window(audio, start) for start in windows)

    def _load_separator(self) -> Separate:
        with self._loading:
            if self._separate is None:
                try:
                    self._separate = load_demucs()
                except ModelError as error:  # rows without stems need no Demucs, so only this row fails
                    raise RowError("melody", str(error)) from error
            return self._separate

    def _analyze_window(self, audio: NDArray[np.float32], start_s: float) -> NDArray[np.int8]:
        first = int(start_s * chroma.RATE_HZ)
        positions = np.arange(first, first + round(chroma.CHUNK_S * chroma.RATE_HZ))
        classes = chroma.strongest_pitch_classes(np.take(audio, positions, mode="wrap"), self.n_chroma)
        return np.resize(classes, self.length)


def _refuse_silence(audio: NDArray[np.float32], name: str, stems: bool) -> None:
    """Raise RowError("melody") for silence, which has pitch class 0 everywhere and would pass for a tune on C."""
    if float(np.abs(audio).max()) < 10 ** (SILENCE_DBFS / 20):
        part = "without its drums and bass " if stems else ""
        seconds = len(audio) / chroma.RATE_HZ
        raise RowError(
            "melody",
            f"melody {name} {part}is silent (its first {seconds:.1f} s, of which the clip would be made, stay below "
            f"{SILENCE_DBFS:g} dBFS): give it a melody that can be heard, or none",
        )


def _decode_mono(file: IO[bytes], seconds: float, name: str) -> NDArray[np.float32]:
    return decode_excerpt(file, sample_rate=chroma.RATE_HZ, seconds=seconds, name=name)[0]
