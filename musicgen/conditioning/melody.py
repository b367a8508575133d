"""From a request's melody to pitch classes for each window of the clip.

A clip of one window hears the first 30 s; a shorter melody's chroma is repeated (as in transformers and audiocraft's
`ChromaStemConditioner`). In a longer clip each window hears the 30 s that begin where it begins; there the sound itself is
repeated, before the chroma is taken, so that a melody's end and beginning meet (audiocraft's `MusicGen._generate_tokens`).
Each item is brought to the conditioning length by itself, before any batch is made: padding inside one would shift positions.
"""

from collections.abc import Sequence
from threading import Lock
from typing import IO

import numpy as np
from numpy.typing import NDArray

from musicgen.audio.fetch import fetch_audio, redact_uri
from musicgen.audio.read import decode_excerpt
from musicgen.conditioning import chroma
from musicgen.conditioning.stems import Separate, load_demucs
from musicgen.errors import ModelError, RowError
from musicgen.memo import Memo
from musicgen.request import Request

_Key = tuple[str, tuple[float, ...] | None, bool]  # content, windows, stems

_REMEMBERED = 4096  # clips; a few hundred bytes a window


class Melodies:
    """Fetches, checks and analyses melodies; each (file, window) once. Safe to use from several threads.

    `length` is the checkpoint's chroma length in positions. `separate` takes drums and bass out, for requests with `stems`;
    None loads Demucs when the first such request comes.
    """

    def __init__(self, length: int, n_chroma: int = chroma.N_CHROMA, separate: Separate | None = None):
        self.length = length
        self.n_chroma = n_chroma
        self._separate = separate
        self._loading = Lock()
        self._bins: Memo[_Key, tuple[NDArray[np.int8], ...]] = Memo(_REMEMBERED)

    @property
    def analysed(self) -> int:
        """How often a melody was analysed so far."""
        return self._bins.computed

    def bins(self, request: Request, starts_s: Sequence[float] | None = None) -> tuple[NDArray[np.int8], ...]:
        """The strongest pitch class at each position: int8 [length] for every window that begins at `starts_s`.

        None is a clip of one window. Raises RowError("melody"): the file cannot be had, is not what was planned, or is no
        music that we decode.
        """
        assert request.melody is not None
        windows = None if starts_s is None else tuple(starts_s)
        stems = request.stems
        if request.melody_sha256 is not None:
            return self._bins.get((request.melody_sha256, windows, stems), lambda: self._fetch(request, windows))
        # Outside a planned run nobody vouches for the file's content: look at it each time.
        with fetch_audio(request.melody) as file:
            return self._bins.get(
                (file.sha256, windows, stems), lambda: self._analyse(file.file, request.melody or "", windows, stems)
            )

    def _fetch(self, request: Request, windows: tuple[float, ...] | None) -> tuple[NDArray[np.int8], ...]:
        uri = request.melody or ""
        with fetch_audio(uri, sha256=request.melody_sha256) as file:
            return self._analyse(file.file, uri, windows, request.stems)

    def _analyse(
        self, file: IO[bytes], uri: str, windows: tuple[float, ...] | None, stems: bool
    ) -> tuple[NDArray[np.int8], ...]:
        seconds = chroma.CHUNK_S + (max(windows) if windows else 0.0)
        name = redact_uri(uri)
        read = self._separator() if stems else _mono
        audio = read(file, seconds, name)
        if windows is None:
            found = chroma.strongest_pitch_classes(audio, self.n_chroma)
            return (np.resize(found, self.length),)  # repeats, or cuts
        return tuple(self._window(audio, start) for start in windows)

    def _separator(self) -> Separate:
        with self._loading:
            if self._separate is None:
                try:
                    self._separate = load_demucs()
                except ModelError as error:  # the rows without stems can go on
                    raise RowError("melody", str(error)) from error
            return self._separate

    def _window(self, audio: NDArray[np.float32], start_s: float) -> NDArray[np.int8]:
        first = int(start_s * chroma.RATE_HZ)
        positions = np.arange(first, first + round(chroma.CHUNK_S * chroma.RATE_HZ))
        found = chroma.strongest_pitch_classes(np.take(audio, positions, mode="wrap"), self.n_chroma)
        return np.resize(found, self.length)


def _mono(file: IO[bytes], seconds: float, name: str) -> NDArray[np.float32]:
    return decode_excerpt(file, rate=chroma.RATE_HZ, seconds=seconds, name=name)[0]
