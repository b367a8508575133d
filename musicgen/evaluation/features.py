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
class Tune:
    """What a melody is compared by."""

    chroma: NDArray[np.int8]  # [frames] of 64 ms: the strongest pitch class, -1 for silence
    notes: NDArray[np.int8]  # [frames]: the same, -1 also where the tune has faded
    pitch: NDArray[np.float32]  # [frames] of 16 ms: MIDI, NaN for unvoiced


@dataclass(frozen=True, slots=True)
class Colour:
    """What sounds are compared by."""

    timbre: NDArray[np.float32]  # [features]
    embedding: NDArray[np.float32]  # [seconds, 96]


@dataclass(frozen=True, slots=True)
class Heard:
    """One clip, by every judge. `mode` and `tonic` are None for silence; `tempo_bpm` is NaN where nothing changes."""

    tune: Tune
    colour: Colour
    mode: str | None
    tonic: int | None  # 0 = C
    tempo_bpm: float
    peak: float  # 1 is full scale
    silent: bool
    loudness_lufs: float | None


def listen(sound: Sound, seconds: float | None = None) -> Heard:
    """Judge the first `seconds` of a clip (None: all of it)."""
    wave, rate = _opened(sound, seconds)
    level = levels.measure_levels(wave, rate)
    audio = _mono(wave, rate)
    found = None if level.silent else key.key(chroma.chromagram(audio))
    return Heard(
        tune=_tune(audio),
        colour=_colour(audio),
        tonic=found[0] if found else None,
        mode=found[1] if found else None,
        tempo_bpm=float("nan") if level.silent else tempo.tempo(audio),
        peak=float(np.abs(wave).max()) if wave.size else 0.0,
        silent=level.silent,
        loudness_lufs=level.loudness_lufs,
    )


def tune(sound: Sound, seconds: float | None = None) -> Tune:
    """The tune of the first `seconds` of a melody."""
    return _tune(_mono(*_opened(sound, seconds)))


def colour(sound: Sound, seconds: float | None = None) -> Colour:
    """The colour of the first `seconds` of a clip."""
    return _colour(_mono(*_opened(sound, seconds)))


def each(
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


def _tune(audio: NDArray[np.float32]) -> Tune:
    chromagram = chroma.chromagram(audio)
    return Tune(chroma.bins(chromagram), chroma.notes(chromagram), pitch.pitches(audio))


def _colour(audio: NDArray[np.float32]) -> Colour:
    return Colour(timbre.features(audio), frechet.embed(audio))


def _opened(sound: Sound, seconds: float | None) -> tuple[NDArray[np.float32], int]:
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


def _mono(wave: NDArray[np.float32], rate: int) -> NDArray[np.float32]:
    audio = wave.mean(axis=0)
    if rate == chroma.RATE_HZ:
        return np.ascontiguousarray(audio)
    import soxr

    return np.ascontiguousarray(soxr.resample(audio, rate, chroma.RATE_HZ, quality="HQ"))
