"""The keys that a job file may hold, and the one that was probably meant by an unknown key."""

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import get_args

from pydantic import BaseModel

KeyPath = tuple[str, ...]
KeyTree = Mapping[str, "KeyTree | None"]  # key -> the keys below it, or None for a value or a free mapping

_SECRET_KEY = re.compile(r"secret|token|password|credential|access_?key", re.IGNORECASE)


def known_keys(model: type[BaseModel]) -> KeyTree:
    """Return the tree of keys of a pydantic model: fields that are models, or may be one, are sections."""
    return {name: _section_keys(field.annotation) for name, field in model.model_fields.items()}


def _section_keys(annotation: object) -> KeyTree | None:
    for kind in (annotation, *get_args(annotation)):
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            return known_keys(kind)
    return None


def suggest_nearest(name: str, known: Iterable[str]) -> str:
    """Return "; did you mean `x`?" for a name close to a known one, else an empty string."""
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f"; did you mean `{near[0]}`?" if near else ""


def suggest_key(key: KeyPath, siblings: KeyTree, known: KeyTree) -> str:
    """Return advice on an unknown key: the same name elsewhere, a similar sibling, a similar key elsewhere, or all
    siblings.

    `siblings` are the keys of its section, `known` all keys.
    """
    *section, name = key
    prefix = ".".join(section) + "." if section else ""
    if _SECRET_KEY.search(name):
        return "; credentials do not belong into a job: they come from the environment or the usual AWS places"
    everywhere = list(_list_dotted_keys(known))
    exact = [dotted for dotted in everywhere if dotted.split(".")[-1] == name]
    if exact:
        return f"; did you mean `{exact[0]}`?"
    near = difflib.get_close_matches(name, list(siblings), n=1, cutoff=0.6)
    if near:
        return f"; did you mean `{prefix}{near[0]}`?"
    by_last_name = {dotted.split(".")[-1]: dotted for dotted in everywhere}
    elsewhere = difflib.get_close_matches(name, list(by_last_name), n=1, cutoff=0.75)
    if elsewhere:
        return f"; did you mean `{by_last_name[elsewhere[0]]}`?"
    where = f"`{'.'.join(section)}`" if section else "a job"
    return f"; {where} knows {', '.join(siblings)}"


def _list_dotted_keys(tree: KeyTree, prefix: str = "") -> Iterator[str]:
    for name, below in tree.items():
        yield prefix + name
        if below is not None:
            yield from _list_dotted_keys(below, f"{prefix}{name}.")
