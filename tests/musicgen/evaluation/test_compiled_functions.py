"""What we call of librosa is safe where several processes start at once on a machine that never ran it."""

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from musicgen.audio.spectrogram import draw_spectrogram
from musicgen.conditioning.chroma import _chroma_filters
from musicgen.evaluation.frechet import embed_audio
from musicgen.evaluation.instrument import instrument_features
from musicgen.evaluation.pitch_classes import compute_chromagram
from musicgen.evaluation.tempo import estimate_tempo

Measure = Callable[[NDArray[np.float32]], object]
MEASURES: list[Measure] = [
    compute_chromagram,
    embed_audio,
    estimate_tempo,
    instrument_features,
    lambda audio: draw_spectrogram(audio[None], 16_000),
    lambda _: _chroma_filters(2048, 12),
]


@pytest.mark.parametrize("measure", MEASURES)
def test_no_generalized_function_of_numba_is_called(measure: Measure, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two processes that compile one at once leave a cache that crashes both and all later ones (numba issue 10128).

    Importing librosa compiles them; that is harmless as long as none is called.
    """
    from librosa.feature import chroma_stft
    from numba.np.ufunc.gufunc import GUFunc

    called: list[str] = []

    def refuse(function: GUFunc, *_: object) -> None:
        called.append(str(function))
        raise AssertionError

    monkeypatch.setattr(GUFunc, "__call__", refuse)
    sound = np.random.default_rng(0).standard_normal(3 * 16_000).astype(np.float32)
    measure(sound)
    with pytest.raises(AssertionError):
        chroma_stft(y=sound, sr=16_000)  # it looks for the tuning by one
    assert len(called) == 1
