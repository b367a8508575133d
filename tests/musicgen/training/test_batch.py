"""The frames at which the cuts of training clips begin."""

import numpy as np

from musicgen.conditioning import chroma
from musicgen.training.batch import TrainingClip, assemble_batch
from tests.fixtures.planning import MELODY

FRAMES = 500


def _clip(beat: float = 0.0) -> TrainingClip:
    """A clip whose codes and pitch classes count: frame f holds f, pitch class p is p modulo 12."""
    codes = np.tile(np.arange(FRAMES, dtype=np.int16), (4, 1))
    return TrainingClip(codes, (np.arange(79) % 12).astype(np.int8), np.array([5, 6, 1], np.int32), beat)


def _starts(clip: TrainingClip, frames: int, count: int = 200) -> tuple[list[int], list[int]]:
    """Of many cuts, the first frame and the first pitch class."""
    draw = np.random.default_rng(0)
    batch = assemble_batch([clip] * count, MELODY, "delay", frames, draw)
    return batch.targets[:, 0, 0].tolist(), batch.pitch_classes[:, 0].tolist()


def test_cuts_begin_anywhere_at_a_pitch_class() -> None:
    starts, bins = _starts(_clip(), 100)
    assert len(set(starts)) > 30
    assert max(starts) <= 400
    frames = chroma.HOP / chroma.RATE_HZ * MELODY.frame_rate  # a pitch class
    assert all(round(start / frames) % 12 == first for start, first in zip(starts, bins, strict=True))


def test_where_the_beat_is_known_seven_cuts_of_eight_begin_four_beats_apart() -> None:
    starts, bins = _starts(_clip(beat=23.4375), 100, 800)  # 128 bpm
    bars = {0: 0, 94: 3, 188: 5, 281: 8, 375: 11}
    at_bars = [(start, first) for start, first in zip(starts, bins, strict=True) if start in bars]
    assert set(at_bars) == set(bars.items())
    assert 0.82 < len(at_bars) / len(starts) < 0.94
    assert len(set(starts)) > 30
    starts, _ = _starts(_clip(beat=150.0), 100, 400)  # no second bar has room
    assert 0.82 < starts.count(0) / len(starts) < 0.94
