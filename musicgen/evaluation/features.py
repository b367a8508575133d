"""All that the judges hear of one clip, made once; comparing clips is then quick."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from musicgen.audio import levels
from musicgen.evaluation import frechet, key, pitch, tempo
from musicgen.evaluation import instrument as timbre
from musicgen.evaluation import pitch_classes as chroma

Sound = Path | tuple[NDArray[np.float32], int]
"""A file, or samples [samples] or [channels, samples] with their rate in Hz."""

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class MelodyFeatures:
    """What a melody is compared by."""

    chroma: NDArray[np.int8]  # [frames] of 64 ms: the strongest pitch class, -1 for silence
    notes: NDArray[np.int8]  # [frames]: the same, -1 also where the tune has faded
    pitch: NDArray[np.float32]  # [frames] of 16 ms: MIDI, NaN for unvoiced


@dataclass(frozen=True, slots=True)
class TimbreFeatures:
    """What sounds are compared by."""

    instrument: NDArray[np.float32]  # [features]
    embedding: NDArray[np.float32]  # [seconds, 96]


@dataclass(frozen=True, slots=True)
class ClipFeatures:
    """One clip, by every judge. `mode` and `tonic` are None for silence; `tempo_bpm` is NaN where nothing changes."""

    melody: MelodyFeatures
    timbre: TimbreFeatures
    mode: str | None
    tonic: int | None  # 0 = C
    tempo_bpm: float
    peak: float  # 1 is full scale
    silent: bool
    loudness_lufs: float | None


def extract_features(sound: Sound, seconds: float | None = None) -> ClipFeatures:
    """Judge the first `seconds` of a clip (None: all of it)."""
    wave, rate = _read_samples(sound, seconds)
    level = levels.measure_levels(wave, rate)
    audio = _to_mono(wave, rate)
    found = None if level.silent else key.estimate_key(chroma.compute_chromagram(audio))
    return ClipFeatures(
        melody=_melody_features(audio),
        timbre=_timbre_features(audio),
        tonic=found[0] if found else None,
        mode=found[1] if found else None,
        tempo_bpm=float("nan") if level.silent else tempo.estimate_tempo(audio),
        peak=float(np.abs(wave).max()) if wave.size else 0.0,
        silent=level.silent,
        loudness_lufs=level.loudness_lufs,
    )


def extract_melody(sound: Sound, seconds: float | None = None) -> MelodyFeatures:
    """The tune of the first `seconds` of a melody."""
    return _melody_features(_to_mono(*_read_samples(sound, seconds)))


def extract_timbre(sound: Sound, seconds: float | None = None) -> TimbreFeatures:
    """The colour of the first `seconds` of a clip."""
    return _timbre_features(_to_mono(*_read_samples(sound, seconds)))


def map_sounds(
    judge: Callable[[Sound, float | None], Result],
    sounds: Sequence[Sound],
    seconds: float | None,
    processes: int,
) -> list[Result]:
    """`judge` each sound, in some processes, in order."""
    from joblib import Parallel, delayed

    return list(
        Parallel(n_jobs=max(1, min(processes, len(sounds))))(delayed(judge)(sound, seconds) for sound in sounds)
    )


def _melody_features(audio: NDArray[np.float32]) -> MelodyFeatures:
    chromagram = chroma.compute_chromagram(audio)
    return MelodyFeatures(
        chroma.strongest_classes(chromagram), chroma.clear_classes(chromagram), pitch.track_pitch(audio)
    )


def _timbre_features(audio: NDArray[np.float32]) -> TimbreFeatures:
    return TimbreFeatures(timbre.instrument_features(audio), frechet.embed_audio(audio))


def _read_samples(sound: Sound, seconds: float | None) -> tuple[NDArray[np.float32], int]:
    """Samples [channels, samples] and their rate."""
    raw: Any
    if isinstance(sound, Path):
        import soundfile

        raw, rate = soundfile.read(sound, dtype="float32", always_2d=True)
        raw = raw.T
    else:
        raw, rate = sound
    wave = np.atleast_2d(np.asarray(raw, dtype=np.float32))
    return (wave if seconds is None else wave[:, : round(seconds * rate)]), rate


def _to_mono(wave: NDArray[np.float32], rate: int) -> NDArray[np.float32]:
    audio = wave.mean(axis=0)
    if rate == chroma.RATE_HZ:
        return np.ascontiguousarray(audio)
    import soxr

    return np.ascontiguousarray(soxr.resample(audio, rate, chroma.RATE_HZ, quality="HQ"))
