"""`Keyer` gives the keys and seeds that `Request` defines."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from musicgen.manifest.audio_hashes import HashedAudio
from musicgen.plan.keys import Keyer
from musicgen.request import Request

TEXT = st.text(max_size=20) | st.sampled_from(
    ["%s %d %%", '"quoted" \\ \n', "\ue000prompt\ue001", "\ue000id\ue001", "4611784110803083987"]
)
HASHES = st.none() | st.sampled_from(["ab" * 32, "cd" * 32])
REQUESTS = st.builds(
    Request,
    prompt=TEXT,
    id=st.none() | TEXT.filter(bool),
    sample=st.integers(0, 2),
    duration_s=st.sampled_from([5.0, 10.0, 7.77]),
    seed=st.none() | st.integers(0, 2**63 - 1),
    temperature=st.sampled_from([0.0, 1.0, 0.9]),
    guidance_scale=st.sampled_from([1.0, 3.0]),
    melody_sha256=HASHES,
    continuation_sha256=HASHES,
    keep_continuation=st.booleans(),
    stems=st.booleans(),
)


@given(
    st.lists(REQUESTS, min_size=1, max_size=8),
    st.integers(0, 2**63 - 1),
    st.sampled_from([{}, {"format": "mp3", "loudness_lufs": -14}]),
)
def test_keys_and_seeds_are_those_of_the_request(requests: list[Request], salt: int, encoding: dict) -> None:
    keyer = Keyer(50.0, "f" * 64, encoding, salt)
    for request in requests:
        plain = replace(request, prompt="", id=None, sample=0, seed=None, melody_sha256=None, continuation_sha256=None)
        key, seed = keyer.key(
            plain,
            request.prompt,
            request.id,
            request.sample,
            request.seed,
            request.melody_sha256 and HashedAudio("m.wav", request.melody_sha256),
            request.continuation_sha256 and HashedAudio("c.wav", request.continuation_sha256),
            lambda *_, request=request: request,
        )
        resolved = request.resolve(salt, 50.0)
        assert seed == resolved.seed
        assert key.hex() == resolved.key(50.0, "f" * 64, encoding)
