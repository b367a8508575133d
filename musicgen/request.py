"""A request for one clip, with its content key and seed.

The identity of a clip is its content (docs/architecture.md): neither depends on the manifest or the place in it that a
row came from.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from os import PathLike

    from numpy.typing import ArrayLike  # numpy takes a while to import, which `musicgen --help` does without

AudioSource: TypeAlias = "str | PathLike[str] | tuple[ArrayLike, int]"
"""A path or URI; or a `Path`, or samples and their rate in Hz, which only the Python API takes."""

KEY_VERSION = 1
SEED_BITS = 63

# The fields of a manifest row by their own names: those that every model family reads, those of families that sample
# codes, and those of families that denoise.
COMMON_ROW_FIELDS = frozenset({"prompt", "id", "duration_s", "samples", "seed", "guidance_scale"})
SAMPLING_ROW_FIELDS = frozenset({"temperature", "top_k", "top_p"})
DENOISING_ROW_FIELDS = frozenset({"negative_prompt", "steps"})

# They do not change the sound: the hashes of the files do.
_URI_FIELDS = frozenset({"melody", "continuation"})


@dataclass(frozen=True, slots=True)
class Request:
    """One clip to generate. Defaults are MusicGen's own (Copet et al. 2023, section 4.2; audiocraft's top-k 250).

    `seed` is the row's own; `resolve` turns it (or, without one, the job's salt) into the effective seed that the
    engine uses. `melody_sha256` and `continuation_sha256` are hashes of the audio files' bytes. Frozen, since it is
    also a key of dicts, and small, since it is sent between processes.
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
    melody: "AudioSource | None" = None
    melody_sha256: str | None = None
    continuation: "AudioSource | None" = None
    continuation_sha256: str | None = None
    keep_continuation: bool = True
    stems: bool = False  # leave drums and bass out of the melody
    stride_s: float = 18.0
    negative_prompt: str = ""  # of families that take one
    steps: int | None = None  # denoising steps, of families that have them; None: the family's own number

    @property
    def melody_uri(self) -> str | None:
        """The melody's path or URI. Raises TypeError for samples, which `MusicGen.generate` writes to a file first."""
        return _expect_uri(self.melody)

    @property
    def continuation_uri(self) -> str | None:
        """The continuation's path or URI. Raises TypeError for samples, as `melody_uri` does."""
        return _expect_uri(self.continuation)

    def frames(self, frame_rate: float) -> int:
        """Return the duration in codec frames (at least one)."""
        return max(1, round(self.duration_s * frame_rate))

    def canonical(self, frame_rate: float) -> dict[str, object]:
        """Return what decides the sound, except the seed, for JSON: the duration as `frames`, and no defaults.

        Integral floats are written as integers, so 3, 3.0 and "3.0" from a CSV give one key.
        """
        form: dict[str, object] = {"frames": self.frames(frame_rate)}
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name in _URI_FIELDS or field.name in ("duration_s", "seed", "sample") or value == field.default:
                continue
            form[field.name] = int(value) if isinstance(value, float) and value.is_integer() else value
        return form

    def resolve(self, salt: int, frame_rate: float) -> "Request":
        """Return the request with its effective seed, 63 bits, in `seed`.

        Sample 0 of a row with its own seed uses exactly that seed, so that a row with the `seed` of the index gets the
        same sound. Every other seed is a hash of the canonical form, the salt or own seed, and the sample.
        """
        if self.seed is not None and self.sample == 0:
            return self
        return replace(self, seed=seed_from_digest(_hash_form(self.seed_form(salt, frame_rate))))

    def seed_form(self, salt: int, frame_rate: float) -> dict[str, object]:
        """Return what the effective seed is a hash of: canonical form, sample, and the row's own seed or the salt."""
        origin = {"salt": salt} if self.seed is None else {"seed": self.seed}
        return {"v": KEY_VERSION, "heard": self.canonical(frame_rate), "sample": self.sample, **origin}

    def key(self, frame_rate: float, model_identity: str, encoding: Mapping[str, object]) -> str:
        """Return the clip's content key (sha256, hex). The request must be resolved, else a ValueError is raised.

        `encoding` is the audio encoding as `musicgen.job.AudioSettings.canonical()` gives it.
        """
        if self.seed is None:
            raise ValueError("a key belongs to a resolved request; call resolve() first")
        return _hash_form(self.key_form(frame_rate, model_identity, encoding)).hex()

    def key_form(self, frame_rate: float, model_identity: str, encoding: Mapping[str, object]) -> dict[str, object]:
        """Return what the key is a hash of."""
        return {
            "v": KEY_VERSION,
            "heard": self.canonical(frame_rate),
            "seed": self.seed,
            "sample": self.sample,
            "model": model_identity,
            "audio": dict(encoding),
        }


def _expect_uri(source: "AudioSource | None") -> str | None:
    if source is None or isinstance(source, str):
        return source
    raise TypeError("samples are no path or URI; MusicGen.generate takes them")


def canonical_text(form: Mapping[str, object]) -> str:
    """Return the JSON of a form, which is one text for equal forms: keys sorted, no spaces, characters not escaped."""
    return json.dumps(form, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def seed_from_digest(digest: bytes) -> int:
    """Return the first 63 bits of the sha256 of a seed form, which are the effective seed."""
    return int.from_bytes(digest[:8], "big") >> (64 - SEED_BITS)


def _hash_form(form: Mapping[str, object]) -> bytes:
    return hashlib.sha256(canonical_text(form).encode("utf-8", "surrogatepass")).digest()
