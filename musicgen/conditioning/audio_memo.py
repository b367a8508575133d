"""Caches results that are computed from audio files, by the files' content."""

from collections.abc import Callable, Hashable
from typing import IO, Generic, TypeVar

from musicgen.audio.fetch import fetch_audio
from musicgen.memo import Memo

Value = TypeVar("Value")


class AudioMemo(Generic[Value]):
    """Keeps the last `size` results by sha256 and settings. Thread-safe; each result is computed once.

    `subject` names the kind of file in error messages ("melody", "continuation", ...).
    """

    def __init__(self, size: int, subject: str):
        self.subject = subject
        self._results: Memo[tuple[str, Hashable], Value] = Memo(size)

    def get(
        self, uri: str, sha256: str | None, compute: Callable[[IO[bytes]], Value], settings: Hashable = None
    ) -> Value:
        """Return `compute(file)` for the file at `uri`, cached under its sha256 and `settings`.

        With a planned `sha256` a file whose result is cached is not fetched again. Without one the file may have
        changed, so it is fetched and hashed each time. Raises RowError("melody") for a file that cannot be fetched or
        has changed since it was planned, and a `StoreError` if its store cannot be used.
        """
        if sha256 is None:
            with fetch_audio(uri, subject=self.subject) as fetched:
                return self._results.get((fetched.sha256, settings), lambda: compute(fetched.file))

        def fetch_and_compute() -> Value:
            with fetch_audio(uri, subject=self.subject, sha256=sha256) as fetched:
                return compute(fetched.file)

        return self._results.get((sha256, settings), fetch_and_compute)
