"""Melody, continuation and long clips in the engine: transformers' codes at batch 1, the same in any batch."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from musicgen.clip import Clip, Failed
from musicgen.conditioning import chroma
from musicgen.model import load_model
from musicgen.request import Request
from tests.fixtures.checkpoints import MELODY, write_checkpoint
from tests.fixtures.engines import make_engine
from tests.fixtures.random_checkpoint import Sizes
from tests.musicgen.conditioning.music import decode_bytes, tune, write

GREEDY = Request("warm piano", duration_s=1.0, temperature=0.0)


def run(model, requests: Sequence[Request], slots: int = 3) -> list[Clip | Failed]:
    """The outcomes of unresolved requests, in order; no two may be equal."""
    engine = make_engine(model, slots=slots)
    resolved = [request.resolve(0, model.spec.frame_rate) for request in requests]
    waiting, outcomes = list(resolved), {}
    try:
        while waiting or engine.busy:
            while waiting and engine.room:
                engine.add(waiting.pop(0))
            outcomes |= {outcome.request: outcome for outcome in engine.step()}
    finally:
        engine.close()
    return [outcomes[request] for request in resolved]


def codes(model, requests: Sequence[Request], slots: int = 3) -> list[np.ndarray]:
    clips = run(model, requests, slots)
    for clip in clips:
        assert isinstance(clip, Clip), clip
    return [clip.codes for clip in clips]


def reference(oracle, model, request: Request, monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    """transformers' greedy codes [codebooks, frames] for one request alone."""
    kept = []
    decode = oracle.audio_encoder.decode
    monkeypatch.setattr(
        oracle.audio_encoder, "decode", lambda codes, *a, **k: (kept.append(codes), decode(codes, *a, **k))[1]
    )
    ids = torch.tensor([model.text.embedder.tokenizer(request.prompt)])
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if request.melody:
        bins = chroma.strongest_pitch_classes(decode_bytes(Path(request.melody).read_bytes())[0])
        inputs["input_features"] = torch.eye(12)[torch.from_numpy(bins.astype(np.int64))][None]
    if request.continuation:
        audio = decode_bytes(Path(request.continuation).read_bytes())
        inputs["input_values"] = torch.from_numpy(audio[:, : audio.shape[1] // 640 * 640])[None]
        inputs["padding_mask"] = torch.ones_like(inputs["input_values"][:, 0])
    frames = request.frames(model.spec.frame_rate)
    known = 0 if not request.continuation else inputs["input_values"].shape[-1] // 640
    with torch.no_grad():
        oracle.generate(
            **inputs,
            do_sample=False,
            guidance_scale=request.guidance_scale,
            max_new_tokens=frames - known + 3,
            use_cache=True,
        )
    return kept[-1][0, 0].numpy()


@pytest.mark.parametrize(
    "change",
    [
        {"melody": "a.wav"},
        {"melody": "b.flac", "prompt": "slow strings and drums", "duration_s": 0.7},
        {"melody": "long.ogg", "guidance_scale": 1.0},
        {"melody": None},
    ],
    ids=str,
)
def test_greedy_codes_are_transformers(
    melody_model, oracle, melodies: Path, change: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    if change["melody"]:
        change = change | {"melody": str(melodies / change["melody"])}
    request = replace(GREEDY, **change)
    (found,) = codes(melody_model, [request])
    assert np.array_equal(found, reference(oracle, melody_model, request, monkeypatch))


@pytest.mark.parametrize(
    ("sizes", "projected"),
    [
        (replace(MELODY, hidden=24, heads=2, text_hidden=24), {"audio_enc_to_dec_proj"}),
        (replace(MELODY, hidden=12, heads=2, text_hidden=16), {"enc_to_dec_proj"}),
        (replace(MELODY, hidden=12, heads=2, text_hidden=12), set()),
    ],
    ids=["text", "chroma", "both"],
)
def test_greedy_codes_are_transformers_where_widths_need_no_projection(
    sizes: Sizes, projected: set[str], melodies: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import MusicgenMelodyForConditionalGeneration

    folder = write_checkpoint(tmp_path, sizes, seed=3)
    model = load_model(folder, "cpu", "float32")
    assert {name.split(".")[0] for name in model.tensors.headers} & {"enc_to_dec_proj", "audio_enc_to_dec_proj"} == (
        projected
    )
    oracle = MusicgenMelodyForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
    for melody in (str(melodies / "a.wav"), None):
        request = replace(GREEDY, melody=melody, duration_s=0.6)
        (found,) = codes(model, [request])
        assert np.array_equal(found, reference(oracle, model, request, monkeypatch))


def test_a_changed_melody_changes_the_codes(melody_model, melodies: Path) -> None:
    a, b, none = codes(
        melody_model, [replace(GREEDY, melody=m and str(melodies / m)) for m in ("a.wav", "b.flac", None)]
    )
    assert not np.array_equal(a, b)
    assert not np.array_equal(a, none)


def mixed(melodies: Path) -> list[Request]:
    a, b, long, short = (str(melodies / name) for name in ("a.wav", "b.flac", "long.ogg", "short.wav"))
    return [
        Request("warm piano", melody=a, duration_s=0.6),
        Request("warm piano", duration_s=1.0),
        Request("", melody=b, duration_s=0.8, guidance_scale=1.0),
        Request("", duration_s=0.6),
        Request("slow drums and strings with a deep warm bass", melody=long, duration_s=0.4),
        Request("warm piano", continuation=short, duration_s=1.5),
        Request("warm piano", continuation=short, duration_s=1.5, keep_continuation=False),
        Request("flute", melody=b, continuation=short, duration_s=1.3),
        Request("warm piano", melody=a, duration_s=0.6, sample=1),
    ]


def test_a_mixed_batch_equals_the_rows_alone(melody_model, melodies: Path) -> None:
    rows = mixed(melodies)
    together = codes(melody_model, rows)
    backwards = codes(melody_model, rows[::-1])[::-1]
    for row, one, other in zip(rows, together, backwards, strict=True):
        (alone,) = codes(melody_model, [row], slots=3)
        assert np.array_equal(one, alone), row
        assert np.array_equal(other, alone), row
    assert not np.array_equal(together[0], together[8])  # two samples of one prompt


def test_continuations_are_kept_or_left_out(melody_model, melodies: Path) -> None:
    kept, new = run(melody_model, mixed(melodies)[5:7])
    assert isinstance(kept, Clip)
    assert isinstance(new, Clip)
    prompt = melody_model.codec.encode(decode_bytes((melodies / "short.wav").read_bytes()))
    assert np.array_equal(kept.codes[:, :50], prompt)
    assert kept.codes.shape == (4, 75)
    assert new.codes.shape == (4, 25)
    assert new.audio.shape == (1, 16_000)


def test_hostile_rows_fail_alone(melody_model, melodies: Path, tmp_path: Path) -> None:
    (tmp_path / "empty.wav").touch()
    (tmp_path / "text.wav").write_text("la la la " * 100)
    bad = [tmp_path / "empty.wav", tmp_path / "text.wav", tmp_path / "absent.wav"]
    rows = [Request("piano", melody=str(path), duration_s=0.5) for path in (melodies / "a.wav", *bad)]
    good, *failed = run(melody_model, rows)
    assert isinstance(good, Clip)
    assert [isinstance(outcome, Failed) and outcome.error.error_class for outcome in failed] == ["melody"] * 3


@pytest.fixture(scope="module")
def short_window_model(tmp_path_factory: pytest.TempPathFactory):
    """A melody model whose window is 4 s."""
    sizes = replace(MELODY, max_positions=204)
    return load_model(write_checkpoint(tmp_path_factory.mktemp("short") / "melody", sizes, seed=4), "cpu", "float32")


def test_a_long_clip_follows_the_melody_window_by_window(short_window_model, tmp_path: Path) -> None:
    """Two melodies that part 31 s in: windows that begin before 1 s hear no difference, the next one does."""
    same, differs = tune(31.0), tune(4.0, notes=(61, 66, 70), note_s=1.0)
    one = write(tmp_path / "one.wav", np.concatenate([same, tune(4.0)]))
    other = write(tmp_path / "other.wav", np.concatenate([same, differs]))
    assert short_window_model.spec.max_frames == 200
    rows = [
        Request("piano", melody=str(path), duration_s=6.0, stride_s=2.0, guidance_scale=1.0, seed=5)
        for path in (one, other)
    ]
    first, second, short = codes(short_window_model, [*rows, replace(rows[0], duration_s=4.0)])
    assert first.shape == second.shape == (4, 300)
    assert np.array_equal(first[:, :200], second[:, :200])
    assert not np.array_equal(first[:, 200:], second[:, 200:])
    assert np.array_equal(first[:, :200], short)


def test_a_long_prompt_and_a_whole_window_of_melody_fit(short_window_model, melodies: Path) -> None:
    (found,) = codes(short_window_model, [Request("warm piano " * 200, melody=str(melodies / "a.wav"), duration_s=4.0)])
    assert found.shape == (4, 200)
