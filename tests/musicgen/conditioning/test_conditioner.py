"""Requests become the embeddings of transformers' melody model, alone or with any other requests."""

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from musicgen.audio.fetch import hash_audio
from musicgen.conditioning import chroma
from musicgen.conditioning.conditioner import RequestConditioner
from musicgen.conditioning.conditions import Conditions
from musicgen.errors import ModelError, RowError
from musicgen.model import load_model
from musicgen.request import Request
from tests.musicgen.conditioning.conftest import prefix_length
from tests.musicgen.conditioning.music import decode_bytes, encoded, tune, write


def ready(conditioner: RequestConditioner, request: Request):
    (prepared,) = conditioner.prepare([request])
    if isinstance(prepared, Exception):
        raise prepared
    return prepared


def window(conditioner: RequestConditioner, request: Request, start: int = 0) -> Conditions:
    frames = min(request.frames(50) - start, conditioner.spec.max_frames)
    return ready(conditioner, request).window(start, frames)


def prefixes(conditions: Conditions) -> torch.Tensor:
    return torch.stack([branch.prefix for branch in conditions.branches])


def expected(oracle, melody_model, prompt: str, audio: np.ndarray | None, guidance: float) -> torch.Tensor:
    """Return transformers' prefix of the decoder, [branches, positions, hidden], with a one-hot chromagram."""
    ids = torch.tensor([melody_model.text.embedder.tokenizer(prompt)])
    kwargs = {"attention_mask": torch.ones_like(ids)}
    if audio is not None:
        kwargs["input_features"] = torch.eye(12)[
            torch.from_numpy(chroma.strongest_pitch_classes(audio[: 30 * chroma.RATE_HZ]).astype(np.int64))
        ][None]
    config = oracle.generation_config
    config.guidance_scale, config.output_attentions, config.output_hidden_states = guidance, False, False
    with torch.no_grad():
        return oracle._prepare_encoder_hidden_states_kwargs_for_generation(ids, kwargs, "input_ids", config)[
            "encoder_hidden_states"
        ]


@pytest.mark.parametrize("name", ["a.wav", "b.flac", "long.ogg", None])
@pytest.mark.parametrize("guidance", [3.0, 1.0])
def test_the_prefix_is_transformers(
    conditioner, melody_model, oracle, melodies: Path, name: str | None, guidance: float
) -> None:
    audio = None if name is None else decode_bytes((melodies / name).read_bytes())[0]
    request = Request("warm piano", melody=None if name is None else str(melodies / name), guidance_scale=guidance)
    conditions = window(conditioner, request)
    reference = expected(oracle, melody_model, "warm piano", audio, guidance)
    found = prefixes(conditions)
    assert (
        found.shape
        == reference.shape
        == (2 if guidance > 1 else 1, prefix_length(conditioner, request), melody_model.spec.hidden)
    )
    assert torch.allclose(found, reference, atol=1e-6)
    assert len(conditions.branches) == conditioner.width(request)


def test_no_melody_is_not_zeros(conditioner) -> None:
    silent = window(conditioner, Request("warm piano"))
    null = prefixes(silent)[1]
    sound, text = null[: conditioner.spec.chroma_length], null[conditioner.spec.chroma_length :]
    assert torch.equal(sound, conditioner.chroma_embeddings[:1].expand_as(sound))
    assert sound.abs().sum() > 0
    assert not text.any()


@pytest.mark.parametrize("level", [0.0, 1e-5, 3e-4], ids=["zeros", "noise of -90 dB", "noise of -60 dB"])
def test_silence_is_refused(conditioner, tmp_path: Path, level: float) -> None:
    """Its pitch class is C at every position, so it would be a tune on C."""
    noise = np.random.default_rng(0).normal(0, level, 64_000).astype(np.float32)
    path = write(tmp_path / "silence.wav", np.clip(noise, -9e-4, 9e-4))
    with pytest.raises(RowError, match=r"silence\.wav is silent \(its first 2\.0 s") as caught:
        window(conditioner, Request("warm piano", melody=str(path)))
    assert caught.value.error_class == "melody"


def test_a_quiet_melody_is_a_melody(conditioner, tmp_path: Path) -> None:
    path = write(tmp_path / "quiet.flac", 0.01 * tune(2.0))
    loud = write(tmp_path / "loud.flac", tune(2.0))
    of_quiet, of_loud = (
        prefixes(window(conditioner, Request("warm piano", melody=str(file)))) for file in (path, loud)
    )
    assert (of_quiet == of_loud).float().mean() > 0.9


def test_unconditional_rows_need_one_branch(conditioner) -> None:
    request = Request("", guidance_scale=3.0)
    conditions = window(conditioner, request)
    assert len(conditions.branches) == conditioner.width(request) == 1
    assert conditions.prefix_length == prefix_length(conditioner, request)


def test_a_melody_alone_is_a_condition(conditioner, melodies: Path) -> None:
    request = Request("", melody=str(melodies / "a.wav"))
    full, null = prefixes(window(conditioner, request))
    assert not torch.equal(full, null)
    assert len(full) == prefix_length(conditioner, request)


def test_a_changed_melody_changes_the_prefix(conditioner, melodies: Path) -> None:
    one, other = (
        prefixes(window(conditioner, Request("piano", melody=str(melodies / name)))) for name in ("a.wav", "b.flac")
    )
    assert not torch.equal(one[0], other[0])
    assert torch.equal(one[1], other[1])


@pytest.fixture
def analyses(conditioner, monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """The windows of every analysis of a melody, as they happen."""
    analyses: list[object] = []
    analyze = conditioner.melodies._analyze

    def counted(file, uri, windows, stems):
        analyses.append(windows)
        return analyze(file, uri, windows, stems)

    monkeypatch.setattr(conditioner.melodies, "_analyze", counted)
    return analyses


def test_one_melody_of_a_thousand_rows_is_analyzed_once(conditioner, analyses, melodies: Path) -> None:
    path = str(melodies / "b.flac")
    request = Request("piano", melody=path, melody_sha256=hash_audio(path).sha256)
    rows = [replace(request, prompt=f"piano {i % 7}", seed=i) for i in range(1000)]
    for row in rows[:500]:
        conditioner.expect(row)  # some of them beside each other
    for prepared in conditioner.prepare(rows):
        assert not isinstance(prepared, Exception)
    assert len(analyses) == 1


def test_windows_of_a_long_clip_take_the_melody_from_where_they_begin(conditioner, analyses, melodies: Path) -> None:
    request = Request("piano", melody=str(melodies / "long.ogg"), duration_s=80.0, stride_s=18.0)
    prepared = ready(conditioner, request)
    audio = decode_bytes((melodies / "long.ogg").read_bytes(), seconds=100)[0]
    for start in (0, 900, 1800, 2700):
        positions = np.arange(start * 640, start * 640 + 960_000) % len(audio)
        wanted = chroma.strongest_pitch_classes(audio[positions])
        found = prepared.window(start, 1500).branches[0].prefix[:235]
        assert torch.equal(found, conditioner.chroma_embeddings[torch.from_numpy(wanted.astype(np.int64))])
    assert len(analyses) == 1
    # An engine whose windows begin elsewhere gets its conditions too.
    assert prepared.window(450, 1500).prefix_length == prepared.window(0, 1500).prefix_length


def test_conditions_do_not_depend_on_other_requests(conditioner, melody_model, melodies: Path) -> None:
    rows = [
        Request("piano", melody=str(melodies / "a.wav")),
        Request("a long prompt about drums and strings, slow, warm"),
        Request("", melody=str(melodies / "b.flac"), duration_s=2),
        Request("", duration_s=2),
        Request("piano", melody=str(melodies / "long.ogg"), duration_s=40),
        Request("flute", continuation=str(melodies / "a.wav")),
    ]
    for row in reversed(rows):
        conditioner.expect(row)
    together = conditioner.prepare(rows)
    alone = RequestConditioner(melody_model)
    for row, prepared in zip(rows, together, strict=True):
        assert torch.equal(prefixes(prepared.window(0, 100)), prefixes(window(alone, row)))


def test_bad_rows_fail_alone(conditioner, melodies: Path, tmp_path: Path) -> None:
    path = str(melodies / "a.wav")
    (tmp_path / "text.wav").write_text("la la la")
    rows = [
        Request("piano", melody=path),
        Request("piano", melody=str(tmp_path / "absent.wav")),
        Request("piano", melody=str(tmp_path / "text.wav")),
        Request("piano", melody=path, melody_sha256=hashlib.sha256(b"another").hexdigest()),
        Request("piano", continuation=str(tmp_path / "text.wav")),
        Request("piano", melody=path),
    ]
    for row in rows[1:3]:
        conditioner.expect(row)
    outcomes = conditioner.prepare(rows)
    assert [isinstance(outcome, RowError) for outcome in outcomes] == [False, True, True, True, True, False]
    assert all(outcome.error_class == "melody" for outcome in outcomes[1:5])
    assert [
        word in str(o)
        for word, o in zip(("does not exist", "not a wav", "has changed", "not a wav"), outcomes[1:5], strict=True)
    ] == [True] * 4


def test_continuation_codes_are_the_codecs(conditioner, melody_model, melodies: Path) -> None:
    path = melodies / "a.wav"
    request = Request("piano", continuation=str(path), duration_s=10.0)
    forced = ready(conditioner, request).forced
    audio = decode_bytes(path.read_bytes())
    assert forced.dtype == torch.int16
    assert np.array_equal(forced.numpy(), melody_model.codec.encode(audio[:, : 350 * 640]))
    assert forced.shape == (4, 350)


def test_a_continuation_must_leave_something_to_generate(conditioner, melodies: Path, tmp_path: Path) -> None:
    for duration in (7.0, 3.0):
        with pytest.raises(RowError, match="leaves nothing to generate"):
            ready(conditioner, Request("piano", continuation=str(melodies / "a.wav"), duration_s=duration))
    assert (
        ready(conditioner, Request("piano", continuation=str(melodies / "a.wav"), duration_s=7.02)).forced.shape[1]
        == 350
    )
    short = write(tmp_path / "short.wav", tune(0.01))
    with pytest.raises(RowError, match="shorter than one frame"):
        ready(conditioner, Request("piano", continuation=str(short)))


def test_stereo_and_text_models(text_checkpoint: Path, stereo_checkpoint: Path, melodies: Path) -> None:
    text = RequestConditioner(load_model(text_checkpoint, "cpu", "float32"))
    full, null = window(text, Request("warm piano")).branches
    assert full.cross.shape[1] == text.spec.hidden
    assert full.prefix is null.prefix is null.cross is None
    assert window(text, Request("")).branches[0].cross is None
    with pytest.raises(RowError, match="takes no melody") as caught:
        ready(text, Request("piano", melody=str(melodies / "a.wav")))
    assert caught.value.error_class == "invalid"
    stereo = RequestConditioner(load_model(stereo_checkpoint, "cpu", "float32"))
    left, right = tune(2.0), tune(2.0, notes=(50, 53))
    path = melodies / "both.wav"
    write(path, np.stack([left, right], axis=1))
    forced = ready(stereo, Request("piano", continuation=str(path))).forced
    swapped = melodies / "swapped.wav"
    write(swapped, np.stack([right, left], axis=1))
    assert forced.shape == (8, 100)
    assert torch.equal(forced[0::2], ready(stereo, Request("piano", continuation=str(swapped))).forced[1::2])


def test_hostile_levels_fail_their_row(conditioner, melodies: Path, tmp_path: Path) -> None:
    """A stereo float file at the largest numbers: finite until its channels are mixed."""
    path = tmp_path / "loud.wav"
    path.write_bytes(encoded(np.full((44_100, 2), 3e38, np.float32), 44_100, subtype="FLOAT"))
    rows = [
        Request("piano", melody=str(path)),
        Request("piano", continuation=str(path)),
        Request("piano", melody=str(melodies / "a.wav")),
    ]
    conditioner.expect(rows[1])
    outcomes = conditioner.prepare(rows)
    assert [getattr(outcome, "error_class", None) for outcome in outcomes] == ["melody", "melody", None]


@pytest.mark.parametrize(
    ("part", "error_class"),
    [("text.encode", "generation"), ("melodies.pitch_classes", "melody"), ("continuations.codec.encode", "melody")],
)
@pytest.mark.parametrize("error", [ValueError, RuntimeError, KeyError, OverflowError, ModelError])
def test_an_error_of_one_request_fails_that_request_only(
    melody_model, melodies: Path, monkeypatch: pytest.MonkeyPatch, part: str, error_class: str, error: type[Exception]
) -> None:
    conditioner = RequestConditioner(melody_model)
    rows = [Request("p", melody=str(melodies / "a.wav")), Request("p", continuation=str(melodies / "a.wav"))]
    break_part(conditioner, part, error("so it is"), monkeypatch)
    conditioner.expect(rows[0])
    failures = [outcome for outcome in conditioner.prepare(rows) if isinstance(outcome, Exception)]
    assert len(failures) == (2 if part == "text.encode" else 1)
    for failure in failures:
        assert isinstance(failure, RowError)
        assert failure.error_class == error_class
        assert error.__name__ in str(failure)
        assert "so it is" in str(failure)


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError(),
        torch.AcceleratorError("lost"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory"),
    ],
)
def test_errors_of_the_machine_are_not_a_rows_failure(
    melody_model, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    conditioner = RequestConditioner(melody_model)
    break_part(conditioner, "text.encode", error, monkeypatch)
    assert conditioner.prepare([Request("p")]) == [error]


def break_part(conditioner: RequestConditioner, part: str, error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: object) -> None:
        raise error

    owner: object = conditioner
    *path, name = part.split(".")
    for step in path:
        owner = getattr(owner, step)
    monkeypatch.setattr(owner, name, broken)


def test_states_are_computed_with_one_thread_from_any_caller(
    melody_model, melodies: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With several, torch sums in another order, and a clip would depend on whose thread came first."""
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        conditioner = RequestConditioner(melody_model)
        assert torch.get_num_threads() == 3
        used: list[int] = []
        encode = conditioner.text.encode
        monkeypatch.setattr(
            conditioner.text, "encode", lambda prompt: used.append(torch.get_num_threads()) or encode(prompt)
        )
        row = Request("piano", continuation=str(melodies / "a.wav"))
        conditioner.expect(row)
        ready(conditioner, row)
        assert used == [1]
        conditioner.close()
    finally:
        torch.set_num_threads(before)
