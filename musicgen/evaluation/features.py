"""Extracts the features by which clips are compared, once per clip."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from musicgen.audio.levels import measure_levels
from musicgen.evaluation.frechet import embed_audio
from musicgen.evaluation.instrument import instrument_features
from musicgen.evaluation.key import estimate_key
from musicgen.evaluation.pitch import track_pitch
from musicgen.evaluation.pitch_classes import RATE_HZ, clear_classes, compute_chromagram, strongest_classes
from musicgen.evaluation.tempo import estimate_tempo

Sound = Path | tuple[NDArray[np.float32], int]
"""A file, or a waveform [samples] or [channels, samples] with its sample rate in Hz."""

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class MelodyFeatures:
    """The features by which melodies are compared."""

    chroma: NDArray[np.int8]  # [frames] of 64 ms: the strongest pitch class, -1 for silence
    notes: NDArray[np.int8]  # [frames]: the same, but -1 also where the melody has faded
    pitch: NDArray[np.float32]  # [frames] of 16 ms: MIDI numbers, NaN for unvoiced frames


@dataclass(frozen=True, slots=True)
class TimbreFeatures:
    """The features by which timbres are compared."""

    instrument: NDArray[np.float32]  # [features]
    embedding: NDArray[np.float32]  # [seconds, 96]


@dataclass(frozen=True, slots=True)
class ClipFeatures:
    """All features of a clip. `mode` and `tonic` are None for silence; `tempo_bpm` is NaN for an unchanging sound."""

    melody: MelodyFeatures
    timbre: TimbreFeatures
    mode: str | None
    tonic: int | None  # 0 = C
    tempo_bpm: float
    peak: float  # 1 is full scale
    silent: bool
    loudness_lufs: float | None


def extract_features(sound: Sound, seconds: float | None = None) -> ClipFeatures:
    """Extract all features of the first `seconds` of a clip (None: of the whole clip)."""
    waveform, sample_rate = _read_samples(sound, seconds)
    measured_levels = measure_levels(waveform, sample_rate)
    audio = _to_mono(waveform, sample_rate)
    estimated_key = None if measured_levels.silent else estimate_key(compute_chromagram(audio))
    return ClipFeatures(
        melody=_melody_features(audio),
        timbre=_timbre_features(audio),
        tonic=estimated_key[0] if estimated_key else None,
        mode=estimated_key[1] if estimated_key else None,
        tempo_bpm=float("nan") if measured_levels.silent else estimate_tempo(audio),
        peak=float(np.abs(waveform).max()) if waveform.size else 0.0,
        silent=measured_levels.silent,
        loudness_lufs=measured_levels.loudness_lufs,
    )


def extract_melody(sound: Sound, seconds: float | None = None) -> MelodyFeatures:
    """Extract the melody of the first `seconds` of a clip."""
    return _melody_features(_to_mono(*_read_samples(sound, seconds)))


def extract_timbre(sound: Sound, seconds: float | None = None) -> TimbreFeatures:
    """Extract the timbre of the first `seconds` of a clip."""
    return _timbre_features(_to_mono(*_read_samples(sound, seconds)))


def map_sounds(
    extract: Callable[[Sound, float | None], Result],
    sounds: Sequence[Sound],
    seconds: float | None,
    processes: int,
) -> list[Result]:
    """Call `extract(sound, seconds)` for each sound in several processes. Returns the results in order."""
    from joblib import Parallel, delayed

    return list(
        Parallel(n_jobs=max(1, min(processes, len(sounds))))(delayed(extract)(sound, seconds) for sound in sounds)
    )


def _melody_features(audio: NDArray[np.float32]) -> MelodyFeatures:
    chromagram = compute_chromagram(audio)
    return MelodyFeatures(strongest_classes(chromagram), clear_classes(chromagram), track_pitch(audio))


def _timbre_features(audio: NDArray[np.float32]) -> TimbreFeatures:
    return TimbreFeatures(instrument_features(audio), embed_audio(audio))


def _read_samples(sound: Sound, seconds: float | None) -> tuple[NDArray[np.float32], int]:
    """Read the first `seconds` of a sound: float32 [channels, samples], and the sample rate in Hz."""
    samples: NDArray[np.float32]
    if isinstance(sound, Path):
        import soundfile

        samples, sample_rate = soundfile.read(sound, dtype="float32", always_2d=True)
        samples = samples.T
    else:
        samples, sample_rate = sound
    waveform = np.atleast_2d(np.asarray(samples, dtype=np.float32))
    return (waveform if seconds is None else waveform[:, : round(seconds * sample_rate)]), sample_rate


def _to_mono(waveform: NDArray[np.float32], sample_rate: int) -> NDArray[np.float32]:
    audio = waveform.mean(axis=0)
    if sample_rate == RATE_HZ:
        return np.ascontiguousarray(audio)
    import soxr

    return np.ascontiguousarray(soxr.resample(audio, sample_rate, RATE_HZ, quality="HQ"))
