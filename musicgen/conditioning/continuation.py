"""Encodes the audio of a request's continuation into the codes that the clip begins with."""

from typing import IO

import numpy as np
from numpy.typing import NDArray

from musicgen.audio.read import decode_excerpt
from musicgen.audio.sound_places import redact_uri
from musicgen.conditioning.audio_memo import AudioMemo
from musicgen.errors import RowError
from musicgen.model.codec.codec import Codec
from musicgen.request import Request

_REMEMBERED = 64  # continuations; 8 KB for each 20 s


class ContinuationEncoder:
    """Fetches, decodes and encodes continuations. Thread-safe; each file is encoded once."""

    def __init__(self, codec: Codec):
        self.codec = codec
        self._memo: AudioMemo[NDArray[np.int16]] = AudioMemo(_REMEMBERED, "continuation")

    def encode(self, request: Request) -> NDArray[np.int16]:
        """Encode the request's continuation: int16 [codebooks, frames], fewer frames than the clip has.

        Samples after the last whole frame are left out, because a padded frame would sound as a gap. Raises
        RowError("melody"): the file cannot be fetched, is not what was planned, cannot be decoded, is shorter than a
        frame, or leaves nothing to generate.
        """
        uri, frames = request.continuation_uri or "", request.frames(self.codec.frame_rate)
        return self._memo.get(
            uri, request.continuation_sha256, lambda file: self._encode_file(file, uri, frames), settings=frames
        )

    def _encode_file(self, file: IO[bytes], uri: str, frames: int) -> NDArray[np.int16]:
        codec = self.codec
        samples_per_frame = round(codec.sample_rate / codec.frame_rate)
        audio = decode_excerpt(
            file,
            sample_rate=codec.sample_rate,
            seconds=frames / codec.frame_rate,
            channels=codec.channels,
            subject="continuation",
            name=redact_uri(uri),
        )
        whole_frames = audio.shape[1] // samples_per_frame
        if whole_frames == 0:
            raise RowError(
                "melody", f"continuation {redact_uri(uri)} is shorter than one frame ({1 / codec.frame_rate:g} s)"
            )
        if whole_frames >= frames:
            raise RowError(
                "melody",
                f"continuation {redact_uri(uri)} is as long as the clip ({frames / codec.frame_rate:g} s) or longer, "
                "which leaves nothing to generate: cut it, or ask for a larger duration_s",
            )
        return codec.encode(audio[:, : whole_frames * samples_per_frame])
