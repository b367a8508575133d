"""A request: what one clip is to be, and the content key and seed that follow from it.

The identity of a clip is its content (docs/architecture.md): nothing here depends on where a row stood in which
manifest.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

KEY_VERSION = 1
SEED_BITS = 63

# Not part of what is heard. URIs are places; the hashes of what they hold stand in for them.
_URI_FIELDS = frozenset({"melody", "continuation"})


@dataclass(frozen=True, slots=True)
class Request:
    """One clip to generate. Defaults are MusicGen's own (Copet et al. 2023, section 4.2; audiocraft's top-k 250).

    `seed` is the row's own; `resolve` turns it (or, without one, the job's salt) into the effective seed that the
    engine uses. `melody_sha256` and `continuation_sha256` are hashes of the audio files' bytes. Frozen and small: it
    is what crosses process borders.
    """

    prompt: str = ""
    id: str | None = None
    sample: int = 0
    duration_s: float = 10.0
    seed: int | None = None
    temperature: float = 1.0
    top_k: int = 250
    top_p: float = 0.0
    guidance_scale: float = 3.0
    melody: str | None = None
    melody_sha256: str | None = None
    continuation: str | None = None
    continuation_sha256: str | None = None
    keep_continuation: bool = True
    stems: bool = False  # leave drums and bass out of the melody
    stride_s: float = 18.0

    def frames(self, frame_rate: float) -> int:
        """The duration in codec frames (at least one)."""
        return max(1, round(self.duration_s * frame_rate))

    def canonical(self, frame_rate: float) -> dict[str, Any]:
        """What is heard, as JSON-ready values: fields at their default left out, the duration as `frames`.

        Integral floats are written as integers, so 3, 3.0 and "3.0" from a CSV are one thing.
        """
        canon: dict[str, Any] = {"frames": self.frames(frame_rate)}
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name in _URI_FIELDS or field.name in ("duration_s", "seed", "sample") or value == field.default:
                continue
            canon[field.name] = int(value) if isinstance(value, float) and value.is_integer() else value
        return canon

    def resolve(self, salt: int, frame_rate: float) -> "Request":
        """The request with its effective seed, 63 bits, in `seed`.

        A row's own seed is used as it stands for sample 0, so that a row which gives back the `seed` of the index
        gets the same sound; every other seed is a hash of what is heard, the salt or own seed, and the sample.
        """
        if self.seed is not None and self.sample == 0:
            return self
        return replace(self, seed=seed_from_digest(_hash_form(self.seed_form(salt, frame_rate))))

    def seed_form(self, salt: int, frame_rate: float) -> dict[str, Any]:
        """What the effective seed is a hash of: what is heard, the sample, and the row's own seed or the salt."""
        origin = {"salt": salt} if self.seed is None else {"seed": self.seed}
        return {"v": KEY_VERSION, "heard": self.canonical(frame_rate), "sample": self.sample, **origin}

    def key(self, frame_rate: float, model_identity: str, encoding: Mapping[str, Any]) -> str:
        """The clip's content key (sha256, hex). The request must be resolved.

        `encoding` is the audio encoding as `musicgen.job.AudioSettings.canonical()` gives it.
        """
        if self.seed is None:
            raise ValueError("a key belongs to a resolved request; call resolve() first")
        return _hash_form(self.key_form(frame_rate, model_identity, encoding)).hex()

    def key_form(self, frame_rate: float, model_identity: str, encoding: Mapping[str, Any]) -> dict[str, Any]:
        """What the key is a hash of."""
        return {
            "v": KEY_VERSION,
            "heard": self.canonical(frame_rate),
            "seed": self.seed,
            "sample": self.sample,
            "model": model_identity,
            "audio": dict(encoding),
        }


def canonical_text(form: Mapping[str, Any]) -> str:
    """The one JSON text of a form: keys sorted, no spaces, characters as they are."""
    return json.dumps(form, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def seed_from_digest(digest: bytes) -> int:
    """The effective seed in a seed form's sha256: its first 63 bits."""
    return int.from_bytes(digest[:8], "big") >> (64 - SEED_BITS)


def _hash_form(form: Mapping[str, Any]) -> bytes:
    return hashlib.sha256(canonical_text(form).encode("utf-8", "surrogatepass")).digest()
