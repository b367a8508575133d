"""Results computed from audio files, remembered by the files' content."""

from collections.abc import Callable, Hashable
from typing import IO, Generic, TypeVar

from musicgen.audio.fetch import fetch_audio
from musicgen.memo import Memo

Value = TypeVar("Value")


class AudioMemo(Generic[Value]):
    """The last `size` results by sha256 and settings. Thread-safe; each file is computed once.

    `what` names the kind of file in error messages ("melody", "continuation", ...).
    """

    def __init__(self, size: int, subject: str):
        self.subject = subject
        self._results: Memo[tuple[str, Hashable], Value] = Memo(size)

    def get(
        self, uri: str, sha256: str | None, compute: Callable[[IO[bytes]], Value], settings: Hashable = None
    ) -> Value:
        """Return `compute(file)` for the file at `uri`, remembered under its sha256 and `settings`.

        With a planned `sha256` a remembered file is not fetched again. Without one nobody vouches for the content, so
        the file is fetched and hashed each time. Raises RowError("melody") for a file that cannot be fetched or has
        changed.
        """
        if sha256 is None:
            with fetch_audio(uri, subject=self.subject) as fetched:
                return self._results.get((fetched.sha256, settings), lambda: compute(fetched.file))

        def fetch_and_compute() -> Value:
            with fetch_audio(uri, subject=self.subject, sha256=sha256) as fetched:
                return compute(fetched.file)

        return self._results.get((sha256, settings), fetch_and_compute)
