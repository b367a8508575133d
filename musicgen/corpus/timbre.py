"""Renders instrument tones by additive synthesis in numpy; the instruments differ in attack, decay and spectrum."""

from dataclasses import dataclass
from functools import lru_cache
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray

RATE_HZ = 16_000
_HIGHEST_PARTIAL_HZ = 7_400.0  # higher partials are left out, so that none is aliased
_RELEASE_S = 0.08


@dataclass(frozen=True)
class Timbre:
    """The parameters of an instrument's sound.

    Partial k has amplitude amplitudes[k] and decays as exp(-t / (decay_s / ratio ** damping)).
    """

    ratios: tuple[float, ...]  # of the partials' frequencies to the note's
    amplitudes: tuple[float, ...]
    attack_s: float
    decay_s: float | None  # None: no decay while the note is held
    damping: float = 0.0  # how much faster high partials decay
    release_s: float = _RELEASE_S
    vibrato: tuple[float, float] = (0.0, 0.0)  # depth in semitones, Hz; it grows during the first half second
    tremolo: tuple[float, float] = (0.0, 0.0)  # depth, Hz
    stiffness: float = 0.0  # of a string: partial k is sharp by sqrt(1 + stiffness k^2)
    detunings: tuple[float, ...] = (0.0,)  # in semitones, of the players of a section
    breath: float = 0.0  # level of the noise in the tone
    rings: bool = False  # decays slowly after the note ends


class _PartialSeries(TypedDict):
    ratios: tuple[float, ...]
    amplitudes: tuple[float, ...]


def _harmonic_partials(count: int, slope: float) -> _PartialSeries:
    return {
        "ratios": tuple(float(order) for order in range(1, count + 1)),
        "amplitudes": tuple(float(order) ** -slope for order in range(1, count + 1)),
    }


def _plucked_partials(count: int, position: float) -> _PartialSeries:
    """Return the partials of a string plucked at `position` of its length; those with a node there are missing."""
    orders = range(1, count + 1)
    return {
        "ratios": tuple(float(order) for order in orders),
        "amplitudes": tuple(abs(float(np.sin(np.pi * order * position))) / order**0.8 for order in orders),
    }


TIMBRES = {
    "piano": Timbre(
        **_harmonic_partials(10, 1.7), attack_s=0.004, decay_s=1.1, damping=0.5, release_s=0.12, stiffness=4e-4
    ),
    "guitar": Timbre(**_plucked_partials(16, 0.2), attack_s=0.002, decay_s=0.55, damping=0.75, release_s=0.05),
    "organ": Timbre(
        ratios=(0.5, 1.0, 2.0, 3.0, 4.0, 6.0, 8.0),
        amplitudes=(0.3, 1.0, 0.8, 0.35, 0.6, 0.2, 0.4),
        attack_s=0.015,
        decay_s=None,
        release_s=0.03,
        tremolo=(0.12, 6.5),
    ),
    "flute": Timbre(
        ratios=(1.0, 2.0, 3.0),
        amplitudes=(1.0, 0.12, 0.05),
        attack_s=0.07,
        decay_s=None,
        vibrato=(0.15, 5.0),
        breath=0.03,
    ),
    "strings": Timbre(
        **_harmonic_partials(22, 0.9),
        attack_s=0.11,
        decay_s=None,
        release_s=0.16,
        vibrato=(0.2, 5.7),
        detunings=(-0.07, 0.0, 0.06),
    ),
    "bell": Timbre(
        ratios=(1.0, 2.76, 4.0, 5.40, 9.2),
        amplitudes=(1.0, 0.12, 0.5, 0.12, 0.25),
        attack_s=0.001,
        decay_s=1.9,
        damping=0.55,
        release_s=0.7,
        tremolo=(0.25, 4.2),
        rings=True,
    ),
    "chords": Timbre(**_harmonic_partials(4, 2.0), attack_s=0.03, decay_s=2.5),
    "bass": Timbre(**_harmonic_partials(6, 1.3), attack_s=0.006, decay_s=0.8, damping=0.4),
}


@lru_cache(maxsize=512)
def render_tone(name: str, pitch: float, samples: int, brightness: float = 1.0) -> NDArray[np.float32]:
    """Return a note of `samples` at RATE_HZ followed by its release: float32, about 0.3 in amplitude, read-only.

    A `brightness` below 1 attenuates the partials above the first, as a tone control does.
    """
    timbre = TIMBRES[name]
    sample_count = samples + round(timbre.release_s * RATE_HZ)
    time_s = np.arange(sample_count) / RATE_HZ
    frequency_hz = 440.0 * 2 ** ((pitch - 69) / 12)
    sound = np.zeros(sample_count, np.float32)
    for detuned_voice, detuning in enumerate(timbre.detunings):
        cycles = frequency_hz * 2 ** (detuning / 12) * time_s + detuned_voice * 0.37
        if timbre.vibrato[0]:
            depth, vibrato_hz = timbre.vibrato
            swell = np.clip((time_s - 0.15) / 0.35, 0, 1)
            cycles += (
                swell
                * frequency_hz
                * (2 ** (depth / 12) - 1)
                * np.sin(2 * np.pi * vibrato_hz * time_s)
                / (2 * np.pi * vibrato_hz)
            )
        sound += _sum_partials(timbre, cycles, time_s, frequency_hz, brightness) / np.float32(
            len(timbre.detunings) ** 0.5
        )
    if timbre.breath:
        noise = np.random.default_rng(round(pitch * 8)).standard_normal(sample_count + 2).astype(np.float32)
        sound += np.float32(timbre.breath * brightness) * (noise[:-2] + 0.5 * noise[1:-1] - 0.5 * noise[2:])
    envelope = np.minimum(1.0, (time_s + 1e-4) / timbre.attack_s)
    if timbre.tremolo[0]:
        envelope *= 1 - timbre.tremolo[0] * (0.5 - 0.5 * np.cos(2 * np.pi * timbre.tremolo[1] * time_s))
    tail = np.linspace(1, 0, sample_count - samples)
    envelope[samples:] *= np.exp(-3 * (1 - tail)) * tail if timbre.rings else tail**2
    sound *= (0.3 * envelope).astype(np.float32)
    sound.setflags(write=False)
    return sound


def _sum_partials(
    timbre: Timbre, cycles: NDArray[np.float64], time_s: NDArray[np.float64], frequency_hz: float, brightness: float
) -> NDArray[np.float32]:
    """Return the sum of the partials along `cycles`, the phase of the fundamental in turns: float32 [len(t)]."""
    mix = np.zeros(len(time_s), np.float32)
    power = 0.0
    for ratio, amplitude in zip(timbre.ratios, timbre.amplitudes, strict=True):
        frequency_ratio = ratio * (1 + timbre.stiffness * ratio**2) ** 0.5
        level = amplitude * (brightness ** np.log2(max(ratio, 1.0)))
        if frequency_ratio * frequency_hz > _HIGHEST_PARTIAL_HZ or level < 1e-3:
            continue
        power += level**2
        phase = cycles * frequency_ratio
        partial = np.sin((phase - np.floor(phase)).astype(np.float32) * np.float32(2 * np.pi))
        if timbre.decay_s is not None:
            # High notes decay faster, as those of strings and bars do.
            decay_per_s = max(ratio, 1.0) ** timbre.damping / timbre.decay_s * (frequency_hz / 440.0) ** 0.4
            partial *= np.exp((time_s * -decay_per_s).astype(np.float32))
        mix += partial * np.float32(level)
    return mix / np.float32(max(power, 1e-6) ** 0.5)
