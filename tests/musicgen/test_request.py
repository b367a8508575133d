"""Requests: what enters a key and a seed, and what does not."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from musicgen.request import Request

MODEL = "0" * 64

REQUESTS = st.builds(
    Request,
    prompt=st.text(max_size=40),
    id=st.none() | st.text(min_size=1, max_size=10),
    sample=st.integers(0, 3),
    duration_s=st.floats(0.1, 60),
    seed=st.none() | st.integers(0, 2**63 - 1),
    temperature=st.floats(0, 2),
    top_k=st.integers(0, 300),
    top_p=st.floats(0, 1),
    guidance_scale=st.floats(0, 10),
    melody_sha256=st.none() | st.sampled_from(["ab" * 32, "cd" * 32]),
)


def key(request: Request, salt: int = 0) -> str:
    return request.resolve(salt, 50.0).key(50.0, MODEL, {})


def test_keys_of_published_datasets_never_change() -> None:
    plain = Request(prompt="warm lo-fi piano, 80 bpm")
    assert key(plain) == "47b52ec818d1ec641a46d10213ae9884f90c4b24828f5cf38824877a7f9ce5d5"
    full = Request(
        prompt="Ein «ruhiges» Stück\nfür Cello",
        id="x-1",
        sample=2,
        duration_s=7.5,
        temperature=0.9,
        top_k=0,
        top_p=0.95,
        guidance_scale=4.0,
        melody="s3://b/m.wav",
        melody_sha256="ab" * 32,
    ).resolve(7, 50.0)
    assert full.seed == 6584047112222019972
    expected = "37746b0092f0da98db7fd8a2153e9b504be01b23595bd4e6a5a9a99be9bad0dd"
    assert full.key(50.0, MODEL, {"format": "mp3", "loudness_lufs": -14}) == expected


@given(REQUESTS)
def test_defaults_are_left_out_so_new_fields_change_no_old_key(request: Request) -> None:
    form = request.canonical(50.0)
    for name, value in form.items():
        assert name == "frames" or value != getattr(Request(), name)


@given(REQUESTS, st.integers(0, 2**63 - 1))
def test_a_recorded_seed_gives_the_same_sound(request: Request, salt: int) -> None:
    resolved = request.resolve(salt, 50.0)
    assert 0 <= resolved.seed < 2**63
    again = replace(resolved, sample=0)  # a row of a new manifest that names the seed of the index
    assert again.resolve(salt + 1, 50.0).seed == resolved.seed


@given(REQUESTS)
def test_samples_and_salts_give_other_seeds(request: Request) -> None:
    request = replace(request, seed=None)
    seeds = {replace(request, sample=sample).resolve(salt, 50.0).seed for sample in range(3) for salt in range(3)}
    assert len(seeds) == 9


def test_the_place_of_a_melody_is_not_heard_but_its_content_is() -> None:
    in_bucket, on_disk = (
        Request(prompt="x", melody=uri, melody_sha256="ab" * 32) for uri in ("s3://a/m.wav", "/b/m.wav")
    )
    assert key(in_bucket) == key(on_disk)
    assert key(in_bucket) != key(replace(in_bucket, melody_sha256="cd" * 32))


HEARD = {
    "prompt": "y",
    "id": "1",
    "sample": 1,
    "duration_s": 9.0,
    "temperature": 0.5,
    "top_k": 10,
    "top_p": 0.5,
    "guidance_scale": 1.0,
    "continuation_sha256": "ab" * 32,
    "keep_continuation": False,
    "stride_s": 12.0,
    "stems": True,
    "seed": 5,
}


@pytest.mark.parametrize("name", HEARD)
def test_everything_heard_changes_the_key(name: str) -> None:
    assert key(Request(prompt="x")) != key(Request(**{"prompt": "x", name: HEARD[name]}))


def test_durations_count_in_frames() -> None:
    assert key(Request(prompt="x", duration_s=5.001)) == key(Request(prompt="x", duration_s=5.0))
    assert key(Request(prompt="x", duration_s=5.02)) != key(Request(prompt="x", duration_s=5.0))


def test_a_key_needs_a_resolved_request() -> None:
    with pytest.raises(ValueError, match="resolve"):
        Request(prompt="x").key(50.0, MODEL, {})
