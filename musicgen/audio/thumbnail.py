"""Draws a small log-frequency spectrogram as a PNG, with NumPy alone, for pages that every run writes."""

import struct
import zlib

import numpy as np
from numpy.typing import NDArray

THUMBNAIL_PIXELS = (440, 96)
"""Width and height of a picture."""

_N_FFT = 2048
_LOWEST_HZ = 40.0
_RANGE_DB = 80.0
# From dark to bright, so that it reads the same in grey.
_COLORS = np.array([(8, 8, 20), (74, 20, 110), (172, 50, 110), (240, 120, 80), (252, 250, 190)], np.float64)


def draw_thumbnail(audio: NDArray[np.float32], sample_rate: int) -> bytes:
    """Draw the spectrogram of `audio` [channels, samples] and return the bytes of a PNG.

    Time goes to the right, pitch upwards by octaves; colors span 80 dB down from the clip's loudest place.
    """
    width, height = THUMBNAIL_PIXELS
    mono = audio.mean(axis=0)
    mono = np.pad(mono, (0, max(0, _N_FFT - mono.size)))
    starts = np.linspace(0, mono.size - _N_FFT, width).astype(int)
    frames = mono[starts[:, None] + np.arange(_N_FFT)] * np.hanning(_N_FFT).astype(np.float32)  # [width, n_fft]
    power = np.abs(np.fft.rfft(frames, axis=1)) ** 2  # [width, bins]
    edges = np.geomspace(_LOWEST_HZ, sample_rate / 2, height + 1) * _N_FFT / sample_rate
    bins = np.clip(edges.astype(int), 0, power.shape[1] - 1)
    bands = np.add.reduceat(power, bins[:-1], axis=1) / np.maximum(1, np.diff(bins))  # [width, height]
    levels = 10 * np.log10(np.maximum(bands, 1e-10))
    top_db = max(0.0, float(levels.max()))  # a clip that stays below is nearly silent, and is drawn dark
    shades = np.clip((levels - top_db + _RANGE_DB) / _RANGE_DB, 0, 1)
    return _write_png((shades * 255).astype(np.uint8).T[::-1])


def _write_png(shades: NDArray[np.uint8]) -> bytes:
    """Return a picture [height, width] of shades as a PNG with a palette."""
    height, width = shades.shape
    places = np.linspace(0, 1, len(_COLORS))
    palette = np.stack([np.interp(np.linspace(0, 1, 256), places, _COLORS[:, color]) for color in range(3)], axis=1)
    rows = np.pad(shades, ((0, 0), (1, 0))).tobytes()  # each begins with the number of its filter: none
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)),
        (b"PLTE", palette.astype(np.uint8).tobytes()),
        (b"IDAT", zlib.compress(rows, 9)),
        (b"IEND", b""),
    ]
    parts = [
        struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
        for name, content in chunks
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)
