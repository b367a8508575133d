"""Draws the log-mel spectrogram of a waveform as a PNG, with seconds and Hz on the axes."""

import io
import math

import numpy as np
from numpy.typing import NDArray

PIXELS = (880, 240)
"""Width and height of a picture."""

_N_FFT, _HOP, _MELS = 2048, 512, 128
_RANGE_DB = 80.0
_MAX_COLUMNS = 1200  # more than there are pixels
_TICKS_HZ = (100, 500, 1000, 2000, 4000, 8000, 16000)
# A dark panel with light text in both themes of a page, because no half-tone is readable on white and on black.
_PANEL_COLOR, _TEXT_COLOR = "#14141c", "#e4e4ec"


def log_mel(audio: NDArray[np.float32], sample_rate: int) -> NDArray[np.float32]:
    """Compute the log-mel spectrogram of the channels' mean: float32 [mels, columns] in dB.

    `audio` is [channels, samples], `sample_rate` in Hz.
    """
    import librosa

    mono = audio.mean(axis=0)
    mono = np.pad(mono, (0, max(0, _N_FFT - mono.size)))  # shorter than a window
    power = librosa.feature.melspectrogram(y=mono, sr=sample_rate, n_fft=_N_FFT, hop_length=_HOP, n_mels=_MELS)
    columns_averaged = math.ceil(power.shape[1] / _MAX_COLUMNS)  # in a long clip, each column is a mean of several
    starts = np.arange(0, power.shape[1], columns_averaged)
    mean = np.add.reduceat(power, starts, axis=1) / np.diff(starts, append=power.shape[1])
    return librosa.power_to_db(mean, top_db=None).astype(np.float32)


def draw_spectrogram(audio: NDArray[np.float32], sample_rate: int) -> bytes:
    """Draw the spectrogram of `audio` [channels, samples] and return the bytes of a PNG.

    Colors span 80 dB, from dark to bright, down from the clip's loudest place; silence is dark. Needs matplotlib (extra
    `listen`).
    """
    import librosa
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    levels = log_mel(audio, sample_rate)
    # A full-scale tone reaches about 40 dB, so a clip that stays below 0 dB is nearly silent and is drawn dark.
    top_db = max(0.0, float(levels.max()))
    highest_mel = librosa.hz_to_mel(sample_rate / 2)
    half_band = highest_mel / (_MELS + 1) / 2  # half the distance between the centers of two bands, in mels
    ticks = [hz for hz in _TICKS_HZ if hz < sample_rate / 2]

    figure = Figure(figsize=(PIXELS[0] / 100, PIXELS[1] / 100), dpi=100, facecolor=_PANEL_COLOR, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.imshow(
        levels,
        origin="lower",
        aspect="auto",
        cmap="magma",
        vmin=top_db - _RANGE_DB,
        vmax=top_db,
        extent=(0, max(audio.shape[-1], 1) / sample_rate, half_band, highest_mel - half_band),
    )
    axes.set_xlabel("seconds", color=_TEXT_COLOR)
    axes.set_ylabel("Hz", color=_TEXT_COLOR)
    axes.set_yticks(librosa.hz_to_mel(np.array(ticks)), [str(hz) for hz in ticks])
    axes.tick_params(colors=_TEXT_COLOR, labelsize=9)
    for spine in axes.spines.values():
        spine.set_visible(False)
    file = io.BytesIO()
    figure.savefig(file, format="png", metadata={"Software": None})  # so that equal clips give equal pictures
    return file.getvalue()
