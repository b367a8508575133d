"""The codec's fit: the same seed, the same codebooks; each codebook finer than the last; no centre in vain."""

from itertools import repeat

import numpy as np
import pytest
from numpy.typing import NDArray

from musicgen.errors import UserError
from musicgen.model.codec.spectral import SpectralCodec
from musicgen.model.codec.spectral_settings import SpectralSettings
from musicgen.training import fit_codec as codec_module
from musicgen.training.fit_codec import fit_codec

SETTINGS = SpectralSettings(n_mels=40, codebook_size=32)


def sweeps(count: int) -> list[NDArray[np.float32]]:
    """Tones that glide, each clip from another pitch: float32 [32000] each."""
    t = np.arange(32_000) / 16_000
    return [
        (0.5 * np.sin(2 * np.pi * (120 + 90 * n) * t * (1 + t)) * np.exp(-t)).astype(np.float32) for n in range(count)
    ]


def test_the_same_seed_gives_the_same_codebooks() -> None:
    one, again, other = (fit_codec(iter(sweeps(6)), SETTINGS, seed) for seed in (3, 3, 4))
    assert one.tensors.keys() == SETTINGS.shapes.keys()
    for name, shape in SETTINGS.shapes.items():
        assert one.tensors[name].shape == shape
        assert one.tensors[name].dtype == np.float32
        np.testing.assert_array_equal(one.tensors[name], again.tensors[name])
        np.testing.assert_array_equal(one.tensors[name], one.tensors[name].astype(np.float16))
    assert not np.array_equal(one.tensors["codebooks"], other.tensors["codebooks"])


def test_each_codebook_leaves_less() -> None:
    fitted = fit_codec(sweeps(6), SETTINGS)
    assert fitted.frames == 600 + 3  # with some silence
    assert (
        1
        > fitted.residual_variance[0]
        > fitted.residual_variance[1]
        > fitted.residual_variance[2]
        > fitted.residual_variance[3]
        > 0
    )
    assert fitted.residual_variance[0] < 0.4
    codec = SpectralCodec.from_state(fitted.settings.to_section(), fitted.tensors)
    codes = np.concatenate([codec.encode(clip[None]) for clip in sweeps(6)], axis=1)
    assert [len(np.unique(level)) for level in codes] > [28] * 4  # hardly a centre that nothing is near


def test_few_different_frames_leave_no_centroid_undefined() -> None:
    fitted = fit_codec(repeat(sweeps(1)[0][:4800], 20), SETTINGS)
    assert np.isfinite(fitted.tensors["codebooks"]).all()


def test_long_corpora_are_thinned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(codec_module, "MAX_FRAMES", 300)
    fitted = fit_codec(sweeps(12), SETTINGS)
    assert 100 < fitted.frames <= 300


def test_too_little_audio_is_an_error() -> None:
    with pytest.raises(UserError, match=r"at least 64 frames of sound \(1 s\), not 10"):
        fit_codec([sweeps(1)[0][:3200]], SETTINGS)
    with pytest.raises(UserError, match="not 0"):
        fit_codec([], SETTINGS)
