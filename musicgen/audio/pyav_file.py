"""Decodes what libsndfile does not know, AAC and WebM, through PyAV and so FFmpeg (extra `av`)."""

from collections.abc import Callable, Iterator
from types import TracebackType
from typing import IO, TYPE_CHECKING, cast

import numpy as np
from numpy.typing import NDArray

from musicgen.audio.file_slice import FileSlice
from musicgen.errors import RowError

if TYPE_CHECKING:
    import av
    from av.audio.codeccontext import AudioCodecContext
    from av.audio.stream import AudioStream
    from av.container import InputContainer

# FFmpeg is told which format to read, so that a file can name neither other files nor the network.
_DEMUXERS = {"m4a": "mov", "aac": "aac", "webm": "matroska"}
_TOLERATED_S = 0.5  # that a container announces too much: the encoder's delay and padding


class PyavFile:
    """A file that is decoded by PyAV, with the attributes and the `read` of a `soundfile.SoundFile`.

    `announced_frames` is how many frames a file has by its header, None if that does not say; up to `tolerated_frames`
    of them may be missing. Raises RowError("melody") if PyAV is not installed, or for a file that it cannot decode.
    """

    def __init__(self, file: FileSlice, kind: str, refuse: Callable[[str], RowError]):
        try:
            import av
        except ImportError:
            raise refuse(
                f"is a file of the kind {kind}, which needs PyAV: pip install '.[av]', or write it "
                "again as wav, flac, mp3 or ogg"
            ) from None
        self._kind, self._refuse, self._error = kind, refuse, av.FFmpegError
        try:
            self._container: InputContainer = av.open(cast(IO[bytes], file), "r", format=_DEMUXERS[kind])
        except (av.FFmpegError, ValueError) as error:
            raise self._refuse_damaged(error) from error
        stream: AudioStream | None = next(iter(self._container.streams.audio), None)
        context: AudioCodecContext | None = None if stream is None else stream.codec_context
        if stream is None or context is None or not context.sample_rate or not context.channels:
            self._container.close()
            if stream is None:
                raise refuse("holds no sound")
            if context is None:
                raise refuse("has sound of a codec that FFmpeg does not know")
            raise refuse("does not say its sample rate and its channels")
        self.channels, self.samplerate = context.channels, context.sample_rate
        seconds = float(stream.duration * stream.time_base) if stream.duration and stream.time_base else 0.0
        if not seconds and self._container.duration:
            seconds = self._container.duration / av.time_base
        # A stream without a length is decoded as far as it is needed.
        self.frames = round(seconds * self.samplerate) or 1
        is_exact = kind == "m4a" and seconds > 0  # of aac the length is estimated, and webm need not have any
        self.announced_frames = self.frames if is_exact else None
        self.tolerated_frames = round(_TOLERATED_S * self.samplerate)
        self._resampler = av.AudioResampler(format="flt", layout=stream.layout, rate=self.samplerate)
        self._blocks = self._decode(stream)
        self._rest = np.zeros((0, self.channels), np.float32)

    def __enter__(self) -> "PyavFile":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._container.close()

    def read(self, frames: int, dtype: str = "float32", always_2d: bool = True) -> NDArray[np.float32]:
        """Read up to this many frames: float32 [frames, channels]; none at the end."""
        parts, count = [self._rest], len(self._rest)
        while count < frames and (block := next(self._blocks, None)) is not None:
            parts.append(block)
            count += len(block)
        samples = np.concatenate(parts)
        self._rest = samples[frames:]
        return samples[:frames]

    def _decode(self, stream: "AudioStream") -> Iterator[NDArray[np.float32]]:
        try:
            for frame in self._container.decode(stream):
                for converted in self._resampler.resample(frame):
                    yield self._to_array(converted)
        except (self._error, ValueError) as error:
            raise self._refuse_damaged(error) from error

    def _to_array(self, frame: "av.AudioFrame") -> NDArray[np.float32]:
        return np.asarray(frame.to_ndarray(), np.float32).reshape(-1, self.channels)

    def _refuse_damaged(self, error: Exception) -> RowError:
        reason = getattr(error, "strerror", None) or error
        return self._refuse(f"cannot be decoded as {self._kind}, it is damaged or cut short (FFmpeg: {reason})")
