"""Keys and effective seeds by the million: `Request.resolve` and `.key`, with the work that rows share done once.

Rows of a manifest differ in prompt, id, seed and melody; the rest of a key's canonical text is one of a few. So that
text is taken from `Request` itself, with marks where the rows differ, and filled in per row.
"""

from collections.abc import Callable, Hashable, Mapping
from dataclasses import replace
from hashlib import sha256
from json.encoder import encode_basestring
from typing import Any

from musicgen.request import Request, canonical_text, seed_from_digest

# In the order in which sorted keys put them: "heard" (these four), then "seed".
_MARKS = {
    "continuation_sha256": "\ue000continuation\ue001",
    "id": "\ue000id\ue001",
    "melody_sha256": "\ue000melody\ue001",
    "prompt": "\ue000prompt\ue001",
}
_SEED_MARK = 1 << 62 | 0x5EED5EED5EED
_CACHED_TEMPLATES = 4096


class Keyer:
    """Keys for one model, encoding and salt. `Request.key` is the definition; the tests hold this to it."""

    def __init__(self, frame_rate: float, model_identity: str, encoding: Mapping[str, Any], salt: int):
        self.frame_rate = frame_rate
        self.model_identity = model_identity
        self.encoding = dict(encoding)
        self.salt = salt
        self._templates: dict[Any, tuple[bytes, bytes]] = {}

    def key(
        self,
        parameters: Hashable,
        prompt: str,
        id: str | None,
        sample: int,
        seed: int | None,
        melody_sha256: str | None,
        continuation_sha256: str | None,
        request: Callable[[], Request],
    ) -> tuple[bytes, int]:
        """The key (32 bytes) and the effective seed of an unresolved request.

        `request` gives the request itself, when its like has not been seen; `parameters` must tell apart whatever
        differs in its other fields.
        """
        shape = (
            parameters,
            sample,
            not prompt,
            id is None,
            seed is None,
            melody_sha256 is None,
            continuation_sha256 is None,
        )
        template = self._templates.get(shape)
        if template is None:
            if len(self._templates) >= _CACHED_TEMPLATES:
                self._templates.clear()
            template = self._templates[shape] = self._template(request())
        values: tuple[bytes | int, ...] = (
            (encode_basestring(prompt).encode("utf-8", "surrogatepass"),) if prompt else ()
        )
        if melody_sha256 is not None:
            values = (melody_sha256.encode(), *values)
        if id is not None:
            values = (encode_basestring(id).encode("utf-8", "surrogatepass"), *values)
        if continuation_sha256 is not None:
            values = (continuation_sha256.encode(), *values)
        seed_text, key_text = template
        if seed is None:
            seed = seed_from_digest(sha256(seed_text % values).digest())
        elif sample != 0:
            seed = seed_from_digest(sha256(seed_text % (*values, seed)).digest())
        return sha256(key_text % (*values, seed)).digest(), seed

    def _template(self, request: Request) -> tuple[bytes, bytes]:
        """The texts of the seed's and the key's form, open where rows differ."""
        marked = {name: mark for name, mark in _MARKS.items() if getattr(request, name) not in (None, "")}
        own_seed = request.seed is not None
        sample = replace(request, **marked, seed=_SEED_MARK if own_seed else None)  # type: ignore[arg-type]
        seed_text = canonical_text(sample.seed_form(self.salt, self.frame_rate))
        resolved = replace(sample, seed=_SEED_MARK)
        key_text = canonical_text(resolved.key_form(self.frame_rate, self.model_identity, self.encoding))
        return _open_template(seed_text), _open_template(key_text)


def _open_template(text: str) -> bytes:
    text = text.replace("%", "%%").replace(str(_SEED_MARK), "%d")
    for name, mark in _MARKS.items():
        # Hashes are hex and go between the quotes; texts bring their own.
        text = text.replace(mark if name.endswith("sha256") else f'"{mark}"', "%b")
    return text.encode("utf-8", "surrogatepass")
