"""Columns that are carried although their names are nearly those of a field of a row."""

import difflib
import re
import unicodedata
from collections.abc import Iterable, Mapping

# What other tools and libraries call our fields; all lower case, without anything but letters and digits.
_OTHER_NAMES: Mapping[str, tuple[str, ...]] = {
    "prompt": ("prompts", "caption", "text", "textprompt", "description"),
    "id": ("uid", "uuid", "key", "name"),
    "melody": ("melodypath", "melodyfile", "melodyuri", "melodyurl", "melodyaudio", "melodywav"),
    "continuation": ("continuationpath", "continuationfile", "audioprompt", "promptaudio"),
    "duration_s": (
        "duration",
        "durations",
        "durationsec",
        "durationseconds",
        "length",
        "lengths",
        "seconds",
        "lengthsec",
    ),
    "samples": ("sample", "nsamples", "numsamples", "takes", "numreturnsequences", "numwaveformsperprompt"),
    "seed": ("seeds", "randomseed", "rngseed"),
    "temperature": ("temp",),
    "top_k": ("topk", "k"),
    "top_p": ("topp", "p"),
    "guidance_scale": ("cfg", "cfgcoef", "cfgscale", "guidance", "guidancescale", "cfgcoefficient"),
    "negative_prompt": ("negative", "negprompt"),
    "steps": ("numsteps", "numinferencesteps", "inferencesteps", "ddimsteps"),
}
# Names that mean something else too often to be spoken of, unless they are ours but for case.
_COMMON = frozenset({"caption", "text", "description", "key", "name", "uid", "uuid", "k", "p", "sample", "negative"})
_CLOSE = 0.85
_COMPARED = 500  # columns that are compared letter by letter; a table of thousands was not typed


def find_near_misses(carried: Iterable[str], used: Mapping[str, str], row_fields: Iterable[str]) -> dict[str, str]:
    """Return carried columns that may be meant as a field: column -> field. `used` are the fields that have a column.

    Only fields of `row_fields` without a column of their own count.
    """
    free = [field for field in row_fields if field not in used]
    names = {_simplify(field): field for field in free}
    names |= {name: field for field in free for name in _OTHER_NAMES.get(field, ()) if name not in _COMMON}
    misses = {}
    simple_fields = [_simplify(field) for field in free]
    for position, column in enumerate(carried):
        simple = _simplify(column)
        if (field := names.get(simple)) is None and len(simple) > 3 and position < _COMPARED:
            close = difflib.get_close_matches(simple, simple_fields, n=1, cutoff=_CLOSE)
            field = names[close[0]] if close else None
        if field is not None:
            misses[column] = field
    return misses


def describe_near_misses(misses: Mapping[str, str]) -> list[str]:
    """Say of each such column what it takes to have it read."""
    return [
        f"the column {column!a} is carried and not read; if it is meant as `{field}`, rename it or say "
        f"manifest.columns: {{{field}: {column}}}"
        for column, field in misses.items()
    ]


def find_same_name(wanted: str, columns: Iterable[str]) -> str | None:
    """Return a column whose name is the wanted one but for case, Unicode form, or marks that are not seen."""
    simple = _simplify(wanted)
    return next((column for column in columns if _simplify(column) == simple), None)


def _simplify(name: str) -> str:
    return re.sub(r"[\W_]+", "", unicodedata.normalize("NFKC", name).casefold())
