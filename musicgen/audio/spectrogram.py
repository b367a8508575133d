"""A picture of a sound: its log-mel spectrogram as a PNG, with seconds and Hz on the axes."""

import io
import math

import numpy as np
from numpy.typing import NDArray

PIXELS = (880, 240)
"""Width and height of a picture."""

_N_FFT, _HOP, _MELS = 2048, 512, 128
_RANGE_DB = 80.0
_COLUMNS = 1200  # more than there are pixels
_TICKS_HZ = (100, 500, 1000, 2000, 4000, 8000, 16000)
# A dark panel with light writing, in both themes of a page: no half-tone reads well on white and on black.
_PANEL, _WRITING = "#14141c", "#e4e4ec"


def log_mel(audio: NDArray[np.float32], rate: int) -> NDArray[np.float32]:
    """Float32 [mels, columns] in dB, of the channels' mean; `audio` is [channels, samples], `rate` in Hz."""
    import librosa

    mono = audio.mean(axis=0)
    mono = np.pad(mono, (0, max(0, _N_FFT - mono.size)))  # shorter than a window
    power = librosa.feature.melspectrogram(y=mono, sr=rate, n_fft=_N_FFT, hop_length=_HOP, n_mels=_MELS)
    block = math.ceil(power.shape[1] / _COLUMNS)  # of a long clip, a column is the mean of some
    starts = np.arange(0, power.shape[1], block)
    mean = np.add.reduceat(power, starts, axis=1) / np.diff(starts, append=power.shape[1])
    return librosa.power_to_db(mean, top_db=None).astype(np.float32)


def draw_spectrogram(audio: NDArray[np.float32], rate: int) -> bytes:
    """The PNG. 80 dB from dark to bright, downwards from the clip's loudest place; silence is dark.

    Needs matplotlib (extra `listen`).
    """
    import librosa
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    levels = log_mel(audio, rate)
    top_db = max(
        0.0, float(levels.max())
    )  # a full-scale tone reaches some 40 dB: what stays below 0 is next to nothing
    high = librosa.hz_to_mel(rate / 2)
    half = high / (_MELS + 1) / 2  # the bands' centres are this much apart, twice
    ticks = [hz for hz in _TICKS_HZ if hz < rate / 2]

    figure = Figure(figsize=(PIXELS[0] / 100, PIXELS[1] / 100), dpi=100, facecolor=_PANEL, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.imshow(
        levels,
        origin="lower",
        aspect="auto",
        cmap="magma",
        vmin=top_db - _RANGE_DB,
        vmax=top_db,
        extent=(0, max(audio.shape[-1], 1) / rate, half, high - half),
    )
    axes.set_xlabel("seconds", color=_WRITING)
    axes.set_ylabel("Hz", color=_WRITING)
    axes.set_yticks(librosa.hz_to_mel(np.array(ticks)), [str(hz) for hz in ticks])
    axes.tick_params(colors=_WRITING, labelsize=9)
    for spine in axes.spines.values():
        spine.set_visible(False)
    file = io.BytesIO()
    figure.savefig(file, format="png", metadata={"Software": None})  # equal clips, equal pictures
    return file.getvalue()
