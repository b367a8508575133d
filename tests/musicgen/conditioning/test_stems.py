"""Separation of stems is off by default, says how to get it, and, where it is there, feeds the chroma."""

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from musicgen.audio.fetch import hash_audio
from musicgen.conditioning import chroma
from musicgen.conditioning.conditioner import RequestConditioner
from musicgen.conditioning.melody import MelodyAnalyzer
from musicgen.conditioning.stems import load_demucs
from musicgen.errors import ModelError, RowError
from musicgen.request import Request
from tests.musicgen.conditioning.music import tune, write


@pytest.mark.skipif(importlib.util.find_spec("demucs") is not None, reason="demucs is installed")
def test_without_demucs_the_error_says_how_to_install_it() -> None:
    with pytest.raises(ModelError, match=r"'.\[stems\]'"):
        load_demucs()


@pytest.mark.skipif(importlib.util.find_spec("demucs") is not None, reason="demucs is installed")
def test_rows_that_ask_for_it_fail_alone(melody_model, melodies: Path) -> None:
    conditioner = RequestConditioner(melody_model)
    request = Request("piano", melody=str(melodies / "a.wav"))
    plain, separated = conditioner.prepare([request, replace(request, stems=True)])
    assert not isinstance(plain, Exception)
    assert isinstance(separated, RowError)
    assert "'.[stems]'" in str(separated)


def test_drums_and_bass_are_left_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A stand-in for Demucs that puts the left channel into "other" and the right one into "bass"."""

    class Demucs(torch.nn.Module):
        sources = ("drums", "bass", "other", "vocals")
        samplerate, audio_channels = 44_100, 2

    def apply_model(model, audio, device, shifts):
        assert shifts == 0  # random shifts would make a row sound different each time
        stems = torch.zeros(1, 4, 2, audio.shape[-1])
        stems[:, 2], stems[:, 1] = audio[:, :1], audio[:, 1:]
        return stems

    monkeypatch.setitem(sys.modules, "demucs", SimpleNamespace())
    monkeypatch.setitem(sys.modules, "demucs.apply", SimpleNamespace(apply_model=apply_model))
    monkeypatch.setitem(sys.modules, "demucs.pretrained", SimpleNamespace(get_model=lambda name: Demucs()))
    melody, bass = 0.2 * tune(6.0, notes=(60, 64, 67), note_s=1.0), tune(6.0, notes=(54,), note_s=1.0)
    path = write(tmp_path / "a.wav", np.stack([melody, bass], axis=1))
    melodies = MelodyAnalyzer(235)
    request = Request("", melody=str(path), melody_sha256=hash_audio(str(path)).sha256)
    (found,) = melodies.pitch_classes(replace(request, stems=True))
    (mixed,) = melodies.pitch_classes(request)
    plain = chroma.strongest_pitch_classes(melody)
    assert np.mean(found[: len(plain)] == plain) > 0.95
    assert np.mean(found[: len(plain)] == mixed[: len(plain)]) < 0.5
    drums = write(tmp_path / "drums.wav", np.stack([0 * bass, bass], axis=1))
    request = Request("", melody=str(drums), melody_sha256=hash_audio(str(drums)).sha256)
    assert melodies.pitch_classes(request)
    with pytest.raises(RowError, match="without its drums and bass is silent"):
        melodies.pitch_classes(replace(request, stems=True))


@pytest.mark.skipif(importlib.util.find_spec("demucs") is None, reason="the extra `stems` is not installed")
def test_the_real_demucs_runs_and_gives_the_same_each_time(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Demucs' own network and `apply_model`, smaller and with random weights, over more than one of its segments."""
    import demucs.pretrained
    from demucs.htdemucs import HTDemucs

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = HTDemucs(sources=["drums", "bass", "other", "vocals"], channels=16, t_layers=1, t_heads=2)
    monkeypatch.setattr(demucs.pretrained, "get_model", lambda name: network)
    path = write(tmp_path / "a.wav", tune(9.0, 44_100), 44_100)
    separate = load_demucs()
    with path.open("rb") as file:
        one, other = (separate(file, 8.0, "a.wav") for _ in range(2))
    assert one.shape == (8 * chroma.RATE_HZ,)
    assert np.isfinite(one).all()
    assert np.array_equal(one, other)
