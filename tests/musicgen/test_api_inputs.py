"""What the Python API takes, refuses and shows, as a user would guess."""

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from musicgen import Clip, Failed, MusicGen, Request, RowError
from musicgen.audio.sound_files import write_sound
from musicgen.manifest.request_check import check_request

SECOND = np.sin(np.arange(16_000) / 9).astype(np.float32) / 2


@pytest.fixture(scope="module")
def model() -> Iterator[MusicGen]:
    with MusicGen.from_pretrained("embedded", device="cpu", dtype="float32", slots=4) as model:
        yield model


def test_one_prompt_or_request_is_a_list_of_one(model: MusicGen) -> None:
    request = Request(prompt="warm piano", duration_s=0.2)
    (one,), (listed,) = model.generate(request), model.generate([request])
    np.testing.assert_array_equal(one.codes, listed.codes)
    (made,) = model.generate("warm piano", salt=3)
    assert made.request.prompt == "warm piano"
    assert made.duration_s == 10


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"duration_s": 0}, "duration_s is 0; it must be more than 0"),
        ({"duration_s": -1.0}, "duration_s is -1.0; it must be more than 0"),
        ({"duration_s": 1e9}, "at most 36000"),
        ({"duration_s": math.inf}, "duration_s is not a finite number"),
        ({"duration_s": "long"}, "duration_s is not a number: 'long'"),
        ({"stride_s": 0.0}, "stride_s is 0.0"),
        ({"temperature": -0.1}, "temperature is -0.1; it must be at least 0"),
        ({"top_p": 1.5}, "top_p is 1.5; it must be at most 1"),
        ({"top_k": 2.5}, "top_k is not a whole number: 2.5"),
        ({"guidance_scale": 101}, "guidance_scale is 101"),
        ({"seed": -1}, "seed is -1"),
        ({"seed": 1 << 63}, "seed is"),
        ({"sample": -1}, "sample is -1"),
        ({"sample": 1.0}, "sample is 1.0"),
        ({"prompt": None}, "prompt is not text: None"),
        ({"prompt": "a" * 9000}, "prompt has 9000 characters"),
        ({"prompt": "\ud800"}, "prompt is not valid UTF-8"),
    ],
    ids=lambda value: str(value)[:40] if isinstance(value, dict) else "",
)
def test_numbers_are_checked_as_in_a_manifest(values: dict, reason: str) -> None:
    with pytest.raises(RowError) as caught:
        check_request(Request(**values))
    assert reason in str(caught.value)
    assert caught.value.error_class == "invalid"


def test_numbers_of_numpy_and_none_are_taken() -> None:
    given = Request(duration_s=np.float32(2.5), top_k=np.int64(7), temperature=None, seed=np.uint64(1 << 62))  # type: ignore[arg-type]
    assert check_request(given) == Request(duration_s=2.5, top_k=7, seed=1 << 62)
    assert check_request(Request(prompt="a")) == Request(prompt="a")


def test_a_request_that_fails_leaves_the_others_their_clips(model: MusicGen, tmp_path: Path) -> None:
    requests = [
        Request(prompt="a", duration_s=0.2),
        Request(prompt="b", duration_s=0.2, melody=str(tmp_path / "none.wav")),
        Request(prompt="c", duration_s=-1),
        Request(prompt="d", duration_s=0.2, melody=(SECOND, 0)),
        Request(prompt="a", duration_s=0.2),
    ]
    outcomes = model.generate(requests, errors="return")
    assert [type(outcome) for outcome in outcomes] == [Clip, Failed, Failed, Failed, Clip]
    reasons = [str(outcome.error) for outcome in outcomes if isinstance(outcome, Failed)]
    assert ["none.wav does not exist" in reasons[0], "duration_s" in reasons[1], "the rate is 0" in reasons[2]] == [
        True
    ] * 3
    assert [outcome.request for outcome in outcomes if isinstance(outcome, Failed)] == requests[1:4]
    with pytest.raises(RowError, match=r"none\.wav does not exist"):
        model.generate(requests)


def test_samples_are_a_melody_and_a_continuation(model: MusicGen, tmp_path: Path) -> None:
    path = write_sound((SECOND, 16_000), tmp_path, "melody")
    in_file = Request(prompt="a", duration_s=0.3, melody=Path(path))
    stereo_of_soundfile = np.stack([SECOND, SECOND], axis=1)
    clips = model.generate(
        [
            in_file,
            Request(prompt="a", duration_s=0.3, melody=(SECOND, 16_000)),
            Request(prompt="a", duration_s=0.3),
            Request(prompt="a", duration_s=0.3, continuation=(stereo_of_soundfile[:3200], 16_000)),
        ]
    )
    np.testing.assert_array_equal(clips[0].codes, clips[1].codes)
    assert not np.array_equal(clips[1].codes, clips[2].codes)
    assert clips[3].request.continuation_sha256
    assert not np.array_equal(clips[3].codes, clips[2].codes)


@pytest.mark.parametrize(
    "samples",
    [
        SECOND,
        SECOND[None],
        SECOND[:, None],
        SECOND.astype(np.float64),
        (SECOND * 32768).astype(np.int16),
        (SECOND * 2**31).astype(np.int32),
        np.round(SECOND * 128 + 128).astype(np.uint8),
        SECOND.tolist(),
    ],
    ids=lambda samples: f"{type(samples).__name__} {getattr(samples, 'dtype', '')} {np.shape(samples)}",
)
def test_samples_of_any_kind_are_one_sound(samples: object, tmp_path: Path) -> None:
    path = write_sound((samples, 16_000), tmp_path, "melody")
    audio, rate = soundfile.read(path)
    assert (rate, audio.shape) == (16_000, (16_000,))
    np.testing.assert_allclose(audio, SECOND, atol=1 / 128)
    assert write_sound((samples, 16_000), tmp_path, "melody") == path


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (SECOND, "is of type ndarray; give a path, a URI, or"),
        ((SECOND, 0), "the rate is 0"),
        ((SECOND, 16000.5), "the rate is 16000.5"),
        ((np.zeros((9, 9)), 16_000), "shape [9, 9] is no sound"),
        (([], 16_000), "is no sound"),
        ((np.array([0.0, np.nan]), 16_000), "NaN"),
        ((["a"], 16_000), "are no numbers"),
        ((["1", "2"], 16_000), "are no numbers"),
        ((SECOND * 1j, 16_000), "are no numbers"),
        (([[1.0], [1.0, 2.0]], 16_000), "are no array"),
        ((torch.zeros(8, requires_grad=True), 16_000), "detach()"),
        ((SECOND, 1_999), "the rate is 1999; it must be a whole number of Hz from 2000 to 192000"),
        ((SECOND, 1_500_000_000), "the rate is 1500000000"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_no_sound_is_refused(source: object, reason: str, tmp_path: Path) -> None:
    with pytest.raises(RowError) as caught:
        write_sound(source, tmp_path, "melody")
    assert f"melody{'' if reason.startswith('is') else ': '}" in str(caught.value)
    assert reason in str(caught.value)


def test_a_clip_is_saved_shown_and_printed(model: MusicGen, tmp_path: Path) -> None:
    (clip,) = model.generate(Request(prompt="<b> piano", duration_s=0.5, seed=1))
    for ending in ("wav", "FLAC", "ogg", "mp3"):
        clip.save(tmp_path / f"clip.{ending}")
        audio, rate = soundfile.read(tmp_path / f"clip.{ending}")
        assert (rate, len(audio)) == (16_000, 8_000) or ending == "mp3"
    with pytest.raises(ValueError, match=r"\.flac, \.wav, \.ogg, \.mp3"):
        clip.save(tmp_path / "clip.aac")
    assert repr(clip) == "<Clip of 0.5 s, 16000 Hz mono, seed 1: '<b> piano'>"
    page = clip._repr_html_()
    assert "&lt;b&gt; piano" in page
    assert '<audio controls src="data:audio/flac;base64,' in page
    assert "data:image/png;base64," in page


def test_another_way_to_treat_errors_is_refused(model: MusicGen) -> None:
    with pytest.raises(ValueError, match="write 'raise' or 'return'"):
        model.generate("a", errors="ignore")  # type: ignore[call-overload]


def test_progress_is_shown_on_stderr(model: MusicGen, capsys: pytest.CaptureFixture[str]) -> None:
    model.generate(["a"], progress=False)
    assert capsys.readouterr().err == ""
    model.generate([Request(prompt="a", duration_s=0.2), Request(prompt="b", duration_s=0.2)], progress=True)
    assert "2/2" in capsys.readouterr().err
