"""From a request's continuation to the codes that the clip begins with."""

from typing import IO

import numpy as np
from numpy.typing import NDArray

from musicgen.audio.fetch import fetch_audio, redact_uri
from musicgen.audio.read import decode_excerpt
from musicgen.errors import RowError
from musicgen.memo import Memo
from musicgen.model.codec.codec import Codec
from musicgen.request import Request

_REMEMBERED = 64  # prompts; 8 KB for each 20 s


class Continuations:
    """Fetches, decodes and encodes audio prompts; each file once. Safe to use from several threads."""

    def __init__(self, codec: Codec):
        self.codec = codec
        self._codes: Memo[tuple[str, int], NDArray[np.int16]] = Memo(_REMEMBERED)

    def codes(self, request: Request) -> NDArray[np.int16]:
        """The codes of the request's audio prompt, int16 [codebooks, frames], fewer frames than the clip has.

        Sound after the last whole frame is left out: a padded frame would be heard as a gap. Raises RowError("melody"):
        the file cannot be had, is not what was planned, is no audio that we decode, is shorter than a frame, or leaves
        nothing to generate.
        """
        assert request.continuation is not None
        frames = request.frames(self.codec.frame_rate)
        uri, sha256 = request.continuation, request.continuation_sha256
        if sha256 is not None:
            return self._codes.get((sha256, frames), lambda: self._fetch(uri, sha256, frames))
        with fetch_audio(uri, what="continuation") as file:
            return self._codes.get((file.sha256, frames), lambda: self._encode(file.file, uri, frames))

    def _fetch(self, uri: str, sha256: str, frames: int) -> NDArray[np.int16]:
        with fetch_audio(uri, what="continuation", sha256=sha256) as file:
            return self._encode(file.file, uri, frames)

    def _encode(self, file: IO[bytes], uri: str, frames: int) -> NDArray[np.int16]:
        codec = self.codec
        hop = round(codec.sample_rate / codec.frame_rate)
        audio = decode_excerpt(
            file,
            rate=codec.sample_rate,
            seconds=frames / codec.frame_rate,
            channels=codec.channels,
            what="continuation",
            name=redact_uri(uri),
        )
        whole = audio.shape[1] // hop
        if whole == 0:
            raise RowError(
                "melody", f"continuation {redact_uri(uri)} is shorter than one frame ({1 / codec.frame_rate:g} s)"
            )
        if whole >= frames:
            raise RowError(
                "melody",
                f"continuation {redact_uri(uri)} is as long as the clip ({frames / codec.frame_rate:g} s) or longer, which leaves "
                "nothing to generate: cut it, or ask for a larger duration_s",
            )
        return codec.encode(audio[:, : whole * hop])
