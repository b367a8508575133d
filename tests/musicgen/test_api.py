"""The Python interface end to end: transformers is the oracle, the embedded model the instrument."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, MusicgenForConditionalGeneration

from musicgen import Clip, MusicGen, Request, RowError

PROMPTS = ["warm lo-fi piano, 80 bpm", "driving techno with a deep bass"]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Tensors this small only lose by being shared out."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def embedded(one_thread: None) -> Iterator[MusicGen]:
    with MusicGen.from_pretrained("embedded", device="cpu", dtype="float32", slots=3) as model:
        yield model


def test_importing_is_light() -> None:
    code = (
        "import sys, musicgen; musicgen.Request, musicgen.Clip, musicgen.ModelError, musicgen.MusicGen;"
        "sys.exit(bool({'torch', 'transformers', 'ray', 'prefect'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("kind", ["text", "deeper", "stereo"])
def test_greedy_clips_equal_transformers(kind: str, request: pytest.FixtureRequest) -> None:
    folder: Path = request.getfixturevalue(f"{kind}_checkpoint")
    frames = 60
    reference = MusicgenForConditionalGeneration.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    heard: list[torch.Tensor] = []
    decode = reference.audio_encoder.decode
    reference.audio_encoder.decode = lambda codes, *args, **more: (
        heard.append(codes[0, 0]) or decode(codes, *args, **more)
    )
    with MusicGen.from_pretrained(str(folder), device="cpu", dtype="float32", slots=2) as model:
        clips = model.generate([Request(prompt=prompt, duration_s=frames / 50, temperature=0.0) for prompt in PROMPTS])
    for prompt, clip in zip(PROMPTS, clips, strict=True):
        heard.clear()
        tokens = tokenizer(prompt, return_tensors="pt")
        audio = reference.generate(**tokens, do_sample=False, guidance_scale=3.0, max_new_tokens=frames + 3)[0]
        if kind == "stereo":
            expected = torch.stack(heard, dim=1).flatten(0, 1)  # left and right, interleaved
        else:
            (expected,) = heard
        np.testing.assert_array_equal(clip.codes, expected.numpy())
        np.testing.assert_allclose(clip.audio, audio.numpy(), atol=3e-6)
        assert len(np.unique(clip.codes)) > 8  # it did not get stuck on one code, which would prove little


def test_clips_are_audible_and_of_the_length_asked_for(embedded: MusicGen) -> None:
    (clip,) = embedded.generate(["flute, 100 bpm, in C major"])
    assert isinstance(clip, Clip)
    assert clip.sample_rate == embedded.sample_rate == 16000
    assert clip.codes.shape == (4, 500)
    assert clip.codes.dtype == np.int16
    assert clip.audio.shape == (1, 160000)
    assert clip.audio.dtype == np.float32
    assert clip.duration_s == 10.0
    assert 0.1 < np.abs(clip.audio).max() < 1
    assert clip.audio.std() > 0.02


def test_order_is_kept_and_company_changes_nothing(embedded: MusicGen) -> None:
    requests = [Request(prompt=f"song {i}", duration_s=0.2 + 0.1 * (i % 4)) for i in range(7)]
    together = embedded.generate(requests)
    assert [clip.request.prompt for clip in together] == [request.prompt for request in requests]
    (alone,) = embedded.generate([requests[4]])
    np.testing.assert_array_equal(alone.codes, together[4].codes)
    np.testing.assert_array_equal(alone.audio, together[4].audio)


def test_equal_requests_are_one_sound_and_samples_are_not(embedded: MusicGen) -> None:
    same = Request(prompt="bells", duration_s=0.3)
    a, b, other, salted = embedded.generate(
        [same, same, Request(prompt="bells", duration_s=0.3, sample=1)]
    ) + embedded.generate([same], salt=1)
    assert a is b
    assert not np.array_equal(a.codes, other.codes)
    assert not np.array_equal(a.codes, salted.codes)


def test_the_seed_of_a_clip_gives_it_back(embedded: MusicGen) -> None:
    (clip,) = embedded.generate([Request(prompt="rain", duration_s=0.3, sample=2)])
    (again,) = embedded.generate([Request(prompt="rain", duration_s=0.3, seed=clip.request.seed)], salt=9)
    np.testing.assert_array_equal(again.codes, clip.codes)


def test_a_request_that_cannot_be_made_is_named_and_harms_no_other(embedded: MusicGen, tmp_path: Path) -> None:
    (tmp_path / "tune.wav").write_bytes(b"RIFF")
    with pytest.raises(RowError, match="melody"):
        embedded.generate(
            [
                Request(prompt="a", duration_s=0.2),
                Request(prompt="b", duration_s=0.2, melody=str(tmp_path / "tune.wav")),
            ]
        )
    with pytest.raises(RowError, match="does not exist"):
        embedded.generate([Request(prompt="b", duration_s=0.2, melody=str(tmp_path / "none.wav"))])
    assert len(embedded.generate([Request(prompt="a", duration_s=0.2)])) == 1
    assert embedded.generate([]) == []


def test_sound_to_codes_and_back(embedded: MusicGen) -> None:
    (clip,) = embedded.generate([Request(prompt="horn", duration_s=0.5)])
    np.testing.assert_array_equal(embedded.decode(clip.codes), clip.audio)
    codes = embedded.encode(clip.audio)
    assert codes.shape == clip.codes.shape
    assert codes.dtype == np.int16
    assert embedded.decode(codes).shape == clip.audio.shape
    # Other rates and channel counts are brought to the model's.
    twice = np.repeat(clip.audio[0], 2)
    assert embedded.encode(twice, sample_rate=32000).shape == codes.shape
    np.testing.assert_array_equal(embedded.encode(np.stack([clip.audio[0], clip.audio[0]])), codes)
    with pytest.raises(ValueError, match="one or two channels"):
        embedded.encode(np.zeros((3, 100)))


def test_stereo_sound_to_codes_and_back(stereo_checkpoint: Path) -> None:
    model = MusicGen.from_pretrained(str(stereo_checkpoint), device="cpu", dtype="float32")
    tone = np.sin(np.arange(6400) / 20).astype(np.float32)
    codes = model.encode(tone)
    assert codes.shape == (8, 10)
    np.testing.assert_array_equal(codes[0::2], codes[1::2])  # one channel, doubled
    assert not np.array_equal(model.encode(np.stack([tone, -tone]))[1::2], codes[1::2])
    assert model.decode(codes).shape == (2, 6400)
