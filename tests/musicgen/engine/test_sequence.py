"""Windows of long clips, forced codes, and that every code is generated exactly once."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from musicgen import patterns
from musicgen.conditioning.windows import window_starts
from musicgen.engine.sequence import GENERATE, Sequence, full_pattern_name
from musicgen.model.spec import ModelSpec
from musicgen.request import Request

SPEC = ModelSpec(
    kind="text", sample_rate=32000, frame_rate=50.0, channels=1, codebooks=4, codebook_size=64, max_frames=30,
    layers=1, hidden=8, heads=1,
    ffn=8, pattern="delay", max_positions=64, text_encoder="t5", text_dim=8,
    text_projection=False,
    chroma_bins=0, chroma_length=0,
)  # fmt: skip


def prepared(forced: np.ndarray | None = None) -> Any:
    return SimpleNamespace(forced=None if forced is None else torch.from_numpy(forced))


@given(st.integers(1, 150), st.integers(1, 30), st.integers(0, 60), st.sampled_from(patterns.NAMES))
def test_windows_cover_the_clip_and_keep_what_is_known(frames: int, stride: int, prompt: int, pattern: str) -> None:
    spec = replace(SPEC, pattern=pattern)
    request = Request(duration_s=frames / 50, stride_s=stride / 50, seed=0)
    prompt = min(prompt, frames - 1)
    forced = np.full((4, prompt), 63, np.int16)
    track = Sequence(request, prepared(forced if prompt else None), spec)
    drawn, last = 0, -1
    while (window := track.next_window()) is not None:
        assert window.index > last
        last = window.index
        assert window.frames <= spec.max_frames
        assert window.start <= track.known < window.start + window.frames
        sequence = window.sequence.copy()
        assert (sequence[:, : window.known] != GENERATE).all()
        assert (sequence[:, window.known] == GENERATE).any()
        overlap = patterns.revert_steps(pattern, sequence, window.frames)[:, : track.known - window.start]
        assert np.array_equal(overlap, track.codes[:, window.start : track.known])  # the past is forced as it is
        new = sequence == GENERATE
        sequence[new] = np.arange(drawn, drawn + new.sum()) % 50
        drawn += int(new.sum())
        track.fill_window(window, sequence)
    assert track.known == frames
    assert drawn == 4 * (frames - prompt), "every code that was not given is generated once"
    assert (track.final_codes() >= 0).all()
    assert (track.final_codes()[:, :prompt] == 63).all()
    assert track.final_codes().shape == (4, frames)


def test_the_share_that_is_done_goes_from_0_to_1_over_all_windows() -> None:
    sequence = Sequence(
        Request(duration_s=70 / 50, stride_s=20 / 50, seed=0), prepared(np.zeros((4, 10), np.int16)), SPEC
    )
    assert sequence.measure_share(None, 0) == 0
    shares = []
    while (window := sequence.next_window()) is not None:
        shares += [sequence.measure_share(window, left) for left in (window.steps, window.steps // 2, 0)]
        sequence.fill_window(window, np.where(window.sequence == GENERATE, 1, window.sequence))
        shares.append(sequence.measure_share(window, 0))
    assert shares == sorted(shares)
    assert shares[0] == 0
    assert shares[-1] == 1


def test_five_minutes_by_the_default_stride() -> None:
    spec = replace(SPEC, max_frames=1500)
    starts = window_starts(Request(duration_s=300, seed=0), spec)
    assert starts == [900 * i for i in range(16)]  # 18 s apart, the last one ends at or after 300 s
    assert starts[-1] + 1500 >= 15000 > starts[-2] + 1500
    assert window_starts(Request(duration_s=30, seed=0), spec) == [0]


def test_a_stride_that_does_not_fit_becomes_the_same_part_of_the_window() -> None:
    spec = replace(SPEC, max_frames=500)  # ten seconds
    starts = window_starts(Request(duration_s=60, seed=0), spec)
    assert starts == [300 * i for i in range(10)]
    assert starts[-1] + 500 >= 3000 > starts[-2] + 500
    assert window_starts(Request(duration_s=10, seed=0), spec) == [0]
    assert window_starts(Request(duration_s=20, stride_s=9, seed=0), spec) == [0, 450, 900]  # one that fits is taken


def test_the_prompt_can_be_left_out() -> None:
    forced = np.full((4, 10), 3, np.int16)
    track = Sequence(Request(duration_s=0.5, keep_continuation=False, seed=0), prepared(forced), SPEC)
    window = track.next_window()
    assert window is not None
    assert window.steps == 25 + 4 - 11
    track.fill_window(window, np.where(window.sequence == GENERATE, 7, window.sequence))
    assert track.final_codes().shape == (4, 15)
    assert (track.final_codes() == 7).all()


@pytest.mark.parametrize(
    ("channels", "pattern", "full"), [(1, "delay", "delay"), (2, "delay", "stereo_delay"), (2, "parallel", "parallel")]
)
def test_stereo_delays_count_pairs(channels: int, pattern: str, full: str) -> None:
    assert full_pattern_name(replace(SPEC, channels=channels, pattern=pattern)) == full
