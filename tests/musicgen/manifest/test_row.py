"""Rows: the values that a cell may have, and the error for others."""

import math
from contextlib import suppress
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from musicgen.errors import RowError
from musicgen.job_sections import GenerationSettings
from musicgen.manifest.audio_hashes import HashedAudio
from musicgen.manifest.row import RowReader
from musicgen.model.spec import ModelSpec


def make_reader(spec: ModelSpec, **settings: Any) -> RowReader:
    return RowReader(GenerationSettings(**settings), spec, "facebook/musicgen-small")


def expect_refusal(function: Any, *arguments: Any) -> str:
    with pytest.raises(RowError) as caught:
        function(*arguments)
    assert caught.value.error_class == "invalid"
    assert len(str(caught.value)) < 300
    return str(caught.value)


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("duration_s", 0, "more than 0"),
        ("duration_s", "-3", "'-3'; it must be more than 0"),
        ("duration_s", "ten", "not a number: 'ten'"),
        ("duration_s", -math.inf, "finite"),
        ("duration_s", "inf", "finite"),
        ("duration_s", 10**400, "finite"),
        ("duration_s", 8000, "at most 600 (generation.max_duration_s)"),
        ("duration_s", [8], "not a number"),
        ("duration_s", True, "not a number"),
        ("duration_s", "1_0", "not a number"),
        ("duration_s", "x" * 100_000, "not a number"),
        ("temperature", -0.1, "at least 0"),
        ("top_k", 2.5, "not a whole number"),
        ("top_k", "-1", "between"),
        ("top_p", 1.01, "at most 1"),
        ("guidance_scale", "3,5", "not a number"),
        ("samples", 0, "between 1"),
        ("samples", 10**9, "between 1"),
    ],
)
def test_bad_parameters_are_named_with_their_value(spec: ModelSpec, name: str, value: Any, expected: str) -> None:
    message = expect_refusal(make_reader(spec).read_parameters, (value,), (name,))
    assert message.startswith(name)
    assert expected in message


def test_true_is_not_one_even_after_a_row_with_one(spec: ModelSpec) -> None:
    rows = make_reader(spec)
    assert rows.read_parameters((1,), ("samples",)).samples == 1
    expect_refusal(rows.read_parameters, (True,), ("samples",))


@given(value=st.integers(1, 600) | st.floats(0.01, 600).map(lambda x: round(x, 3)))
def test_a_number_is_the_same_however_it_is_written(spec: ModelSpec, value: float) -> None:
    rows = make_reader(spec)
    spellings = [value, float(value), str(value), f" {value} ", f"{float(value)!r}", Decimal(str(value))]
    assert {rows.read_parameters((spelling,), ("duration_s",)).duration_s for spelling in spellings} == {float(value)}


def test_empty_cells_are_the_jobs_defaults(spec: ModelSpec) -> None:
    rows = make_reader(spec, duration_s=7, top_k=5, samples=2, guidance_scale=1.5)
    names = ("duration_s", "top_k", "samples", "guidance_scale")
    for empty in (None, "", "  "):
        parameters = rows.read_parameters((empty,) * 4, names)
        assert (parameters.duration_s, parameters.top_k, parameters.samples, parameters.guidance_scale) == (
            7,
            5,
            2,
            1.5,
        )


def test_ids_and_seeds_of_any_type_are_the_same(spec: ModelSpec) -> None:
    rows = make_reader(spec)
    assert rows.read_id(7) == rows.read_id("7") == rows.read_id(7.0) == "7"
    assert rows.read_id("007") == "007"
    assert rows.read_id("") is rows.read_id(None) is None
    assert rows.read_seed(5) == rows.read_seed("5") == rows.read_seed(5.0) == 5
    assert rows.read_seed(str(2**63 - 1)) == 2**63 - 1
    assert "rounded" in expect_refusal(rows.read_seed, float(2**62))
    for bad in (-1, 2**63, 1.5, "x", True):
        expect_refusal(rows.read_seed, bad)
    for bad in (True, 1.5, ["a"], {"a": 1}, "x" * 2000, "\udcff"):
        expect_refusal(rows.read_id, bad)


def test_prompts(spec: ModelSpec) -> None:
    rows = make_reader(spec)
    assert rows.read_prompt("  kept as it is\n") == "  kept as it is\n"
    assert rows.read_prompt(None) == rows.read_prompt("") == rows.read_prompt(" \n\t") == ""
    for bad in (5, ["x"], {"a": 1}, "x" * 9000, "half \udcff"):
        expect_refusal(rows.read_prompt, bad)


def test_a_row_without_prompt_and_melody_is_refused_unless_allowed(spec: ModelSpec) -> None:
    assert "allow_unconditional" in expect_refusal(make_reader(spec).check_conditions, "", None)
    make_reader(spec, allow_unconditional=True).check_conditions("", None)
    make_reader(spec).check_conditions("", "melody.wav")


def test_a_clap_row_has_a_prompt_or_a_sound(spec: ModelSpec) -> None:
    rows = make_reader(replace(spec, text_encoder="clap"))
    assert rows.read_uri("sound.wav", "melody") == "sound.wav"
    rows.check_conditions("", "sound.wav")
    rows.check_conditions("piano", None)
    assert "not both" in expect_refusal(rows.check_conditions, "piano", "sound.wav")
    make_reader(replace(spec, kind="melody")).check_conditions("piano", "tune.wav")


def test_the_error_of_a_missing_control_names_models_that_have_it(spec: ModelSpec) -> None:
    message = expect_refusal(make_reader(spec).read_uri, "tune.wav", "melody")
    assert "facebook/musicgen-small takes no melody; musicgen-melody or musicgen-melody-large could" in message
    stereo = replace(spec, channels=2, codebooks=8)
    assert "musicgen-stereo-melody" in expect_refusal(make_reader(stereo).read_uri, "tune.wav", "melody")
    assert make_reader(replace(spec, kind="melody")).read_uri("tune.wav", "melody") == "tune.wav"


def test_settings_without_effect_do_not_change_a_request(spec: ModelSpec) -> None:
    first, second = make_reader(spec), make_reader(spec, stride_s=10, keep_continuation=False)
    audio = HashedAudio("s3://b/x.wav", "ab" * 32)
    for duration, same in ((10, True), (30, True), (31, False)):
        requests = [
            rows.make_request(rows.read_parameters((duration,), ("duration_s",)), "x") for rows in (first, second)
        ]
        assert (requests[0] == requests[1]) is same
    continued = [rows.make_request(rows.read_parameters((), ()), "x", continuation=audio) for rows in (first, second)]
    assert continued[0] != continued[1]
    first, second = make_reader(replace(spec, kind="melody")), make_reader(replace(spec, kind="melody"), stems=True)
    for melody, same in ((None, True), (audio, False)):
        assert (
            first.make_request(first.read_parameters((), ()), "x", melody=melody)
            == second.make_request(second.read_parameters((), ()), "x", melody=melody)
        ) is same


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(), st.lists, max_leaves=3))
def test_any_cell_gives_a_value_or_a_refusal(spec: ModelSpec, value: Any) -> None:
    rows = make_reader(spec)
    for check in (
        rows.read_prompt,
        rows.read_id,
        rows.read_seed,
        lambda cell: rows.read_parameters((cell, cell), ("duration_s", "samples")),
    ):
        with suppress(RowError):
            check(value)
