"""Loads the codec of a checkpoint of whatever family has one, for `musicgen encode` and `decode`."""

from musicgen.errors import JobError
from musicgen.families.musicgen.musicgen_family import as_model_checkpoint
from musicgen.families.registry import resolve_checkpoint
from musicgen.model import load_codec
from musicgen.model.codec.codec import Codec
from musicgen.presets import find_preset


def load_family_codec(name: str, device: str) -> Codec:
    """Load a checkpoint's codec. Raises `JobError` for a family without codes, of a preset before it is fetched."""
    preset = find_preset(name)
    family = preset.family if preset is not None and preset.codebooks is None else None
    if family is None:
        checkpoint = resolve_checkpoint(name)
        if checkpoint.spec.has_codes:
            return load_codec(as_model_checkpoint(checkpoint), device)
        family = checkpoint.family.name
    raise JobError(f"--model {name} (family {family}) has no codes; give a checkpoint with a codec, such as embedded")
