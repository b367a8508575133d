"""Encodes waveforms as audio files in memory: the same bytes for the same waveform, and its measured levels."""

import hashlib
import io
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from musicgen.audio.levels import limit_peak, measure_levels, normalize_loudness
from musicgen.audio.ogg import make_serial_reproducible
from musicgen.errors import RowError

FORMATS = {
    "flac": ("FLAC", "PCM_16"),
    "wav": ("WAV", "PCM_16"),
    "ogg": ("OGG", "VORBIS"),
    "mp3": ("MP3", "MPEG_LAYER_III"),
}
"""libsndfile's names of each format and its coding. FLAC and WAV hold 16-bit samples, without further loss."""

_BLOCK_FRAMES = 1 << 15  # per call: libsndfile's Vorbis encoder puts the samples of a whole call on the stack


@dataclass(frozen=True, slots=True)
class EncodedAudio:
    """An audio file in memory with its hashes, length and levels.

    `pcm_sha256` is the hash of the samples before encoding, as little-endian int16, channels interleaved: what FLAC and
    WAV decode to. `clipped` is true if the waveform exceeded full scale and was scaled down. The levels are those of
    the stored samples.
    """

    data: bytes
    sha256: str
    pcm_sha256: str
    sample_rate: int
    channels: int
    samples: int
    peak_dbfs: float | None
    loudness_lufs: float | None
    clipped: bool
    silent: bool

    @property
    def duration_s(self) -> float:
        """Return the length in seconds."""
        return self.samples / self.sample_rate


def encode_audio(
    audio: NDArray[np.float32], sample_rate: int, format: str = "flac", loudness_lufs: float | None = None
) -> EncodedAudio:
    """Encode a waveform, float32 [channels, samples], nominally in [-1, 1].

    With `loudness_lufs` the waveform is brought to that loudness first. A waveform that exceeds full scale is scaled
    down (levels.py). Equal waveforms give equal bytes. Raises `RowError` (generation) for an empty waveform or one with
    NaN or infinity.
    """
    if audio.ndim != 2 or audio.shape[-1] == 0:
        raise RowError(
            "generation", f"the model gave a waveform of shape {audio.shape}; [channels, samples] was expected"
        )
    if not np.isfinite(audio).all():
        raise RowError("generation", "the waveform holds NaN or infinity; try dtype fp32")
    limited, clipped = limit_peak(np.asarray(audio, np.float32))
    if loudness_lufs is not None:
        limited, _ = limit_peak(normalize_loudness(limited, sample_rate, loudness_lufs))
    pcm = quantize_to_int16(limited)
    levels = measure_levels(pcm.T.astype(np.float32) / np.float32(32768), sample_rate)
    file_bytes = _encode_file(pcm, sample_rate, format)
    return EncodedAudio(
        data=file_bytes,
        sha256=hashlib.sha256(file_bytes).hexdigest(),
        pcm_sha256=hash_pcm(pcm),
        sample_rate=sample_rate,
        channels=pcm.shape[1],
        samples=pcm.shape[0],
        peak_dbfs=levels.peak_dbfs,
        loudness_lufs=levels.loudness_lufs,
        clipped=clipped,
        silent=levels.silent,
    )


def quantize_to_int16(audio: NDArray[np.float32]) -> NDArray[np.int16]:
    """Round a waveform, float32 [channels, samples], to int16 [samples, channels].

    Full scale is 32768, so that decoding to float gives the waveform back to within half a step.
    """
    return np.clip(np.rint(audio.T * np.float32(32768)), -32768, 32767).astype("<i2")


def hash_pcm(pcm: NDArray[np.int16]) -> str:
    """Return the sha256 of int16 samples, [samples, channels], little-endian and interleaved."""
    return hashlib.sha256(np.ascontiguousarray(pcm, "<i2").tobytes()).hexdigest()


def _encode_file(pcm: NDArray[np.int16], sample_rate: int, format: str) -> bytes:
    import soundfile

    container, coding = FORMATS[format]
    # libsndfile 1.2.2 garbles stereo MP3 that is written as int16; the lossless formats are exact only from int16.
    samples = pcm if coding == "PCM_16" else pcm.astype(np.float32) / np.float32(32768)
    buffer = io.BytesIO()
    with soundfile.SoundFile(
        buffer, "w", samplerate=sample_rate, channels=pcm.shape[1], format=container, subtype=coding
    ) as file:
        for start in range(0, len(pcm), _BLOCK_FRAMES):
            file.write(samples[start : start + _BLOCK_FRAMES])
    file_bytes = buffer.getvalue()
    return make_serial_reproducible(file_bytes) if format == "ogg" else file_bytes
