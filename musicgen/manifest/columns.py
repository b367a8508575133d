"""Which columns of a manifest mean something, and what becomes of the others."""

import difflib
from collections.abc import Iterable

# The fields of a manifest row, by our names. `manifest.columns` maps them to the manifest's own.
ROW_FIELDS = (
    "prompt",
    "id",
    "melody",
    "continuation",
    "duration_s",
    "samples",
    "seed",
    "temperature",
    "top_k",
    "top_p",
    "guidance_scale",
)


def nearest(name: str, known: Iterable[str]) -> str:
    """"; did you mean `x`?" for a name close to a known one, else nothing."""
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f"; did you mean `{near[0]}`?" if near else ""
