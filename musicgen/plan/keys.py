"""Fast keys and effective seeds of many rows: the same as `Request.resolve` and `Request.key` give.

Rows of a manifest differ in prompt, id, seed, melody and continuation; the rest of the text that is hashed is the same
for many rows. A template of that text is made once with `Request`, with marks in place of these values, and each row
fills it in.
"""

from collections.abc import Callable, Hashable, Mapping
from dataclasses import replace
from hashlib import sha256
from json.encoder import encode_basestring
from typing import TypeVar

from musicgen.manifest.audio_hashes import HashedAudio
from musicgen.request import Request, canonical_text, seed_from_digest

# In the order of the sorted keys of the form "heard"; "seed" follows.
_MARKS = {
    "continuation_sha256": "\ue000continuation\ue001",
    "id": "\ue000id\ue001",
    "melody_sha256": "\ue000melody\ue001",
    "prompt": "\ue000prompt\ue001",
}
_SEED_MARK = 1 << 62 | 0x5EED5EED5EED
_CACHED_TEMPLATES = 4096
_Parameters = TypeVar("_Parameters", bound=Hashable)


class Keyer:
    """Keys for one model, encoding and salt. `Request.key` is the definition, against which tests check this class."""

    def __init__(self, frame_rate: float, model_identity: str, encoding: Mapping[str, object], salt: int):
        self.frame_rate = frame_rate
        self.model_identity = model_identity
        self.encoding = dict(encoding)
        self.salt = salt
        self._templates: dict[Hashable, tuple[bytes, bytes]] = {}

    def key(
        self,
        parameters: _Parameters,
        prompt: str,
        id: str | None,
        sample: int,
        seed: int | None,
        melody: HashedAudio | None,
        continuation: HashedAudio | None,
        make_request: Callable[
            [_Parameters, str, str | None, int, int | None, HashedAudio | None, HashedAudio | None], Request
        ],
    ) -> tuple[bytes, int]:
        """Return the key (32 bytes) and the effective seed of an unresolved request.

        `parameters` must be different for requests that differ in other fields than these. `make_request` makes the
        request of the values before it; it is called for the first of many like it.
        """
        shape = (
            parameters,
            sample,
            not prompt,
            id is None,
            seed is None,
            melody is None,
            continuation is None,
        )
        template = self._templates.get(shape)
        if template is None:
            if len(self._templates) >= _CACHED_TEMPLATES:
                self._templates.clear()
            request = make_request(parameters, prompt, id, sample, seed, melody, continuation)
            template = self._templates[shape] = self._make_template(request)
        values: tuple[bytes | int, ...] = (
            (encode_basestring(prompt).encode("utf-8", "surrogatepass"),) if prompt else ()
        )
        if melody is not None:
            values = (melody.sha256.encode(), *values)
        if id is not None:
            values = (encode_basestring(id).encode("utf-8", "surrogatepass"), *values)
        if continuation is not None:
            values = (continuation.sha256.encode(), *values)
        seed_text, key_text = template
        if seed is None:
            seed = seed_from_digest(sha256(seed_text % values).digest())
        elif sample != 0:
            seed = seed_from_digest(sha256(seed_text % (*values, seed)).digest())
        return sha256(key_text % (*values, seed)).digest(), seed

    def _make_template(self, request: Request) -> tuple[bytes, bytes]:
        """Return the texts of the seed's and the key's form, with `%` formats where rows differ."""
        marked = {name: mark for name, mark in _MARKS.items() if getattr(request, name) not in (None, "")}
        own_seed = request.seed is not None
        example = replace(request, **marked, seed=_SEED_MARK if own_seed else None)  # type: ignore[arg-type]
        seed_text = canonical_text(example.seed_form(self.salt, self.frame_rate))
        resolved = replace(example, seed=_SEED_MARK)
        key_text = canonical_text(resolved.key_form(self.frame_rate, self.model_identity, self.encoding))
        return _open_template(seed_text), _open_template(key_text)


def _open_template(text: str) -> bytes:
    """Replace the marks in a text by `%` formats."""
    text = text.replace("%", "%%").replace(str(_SEED_MARK), "%d")
    for name, mark in _MARKS.items():
        # Hashes are hex and go between the quotes; texts bring their own.
        text = text.replace(mark if name.endswith("sha256") else f'"{mark}"', "%b")
    return text.encode("utf-8", "surrogatepass")
