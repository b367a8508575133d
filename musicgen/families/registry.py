"""Finds the checkpoint that a model's name means, and the family that it is of."""

import importlib
import os
import pkgutil
from functools import cache
from pathlib import Path

from musicgen import families
from musicgen.errors import ModelError
from musicgen.families.family import Family, FamilyCheckpoint
from musicgen.model.checkpoint.resolve import locate_checkpoint


@cache
def list_families() -> tuple[Family, ...]:
    """Return all families: the `FAMILY` of each folder of `musicgen.families`."""
    names = sorted(module.name for module in pkgutil.iter_modules(families.__path__) if module.ispkg)
    return tuple(importlib.import_module(f"{families.__name__}.{name}").FAMILY for name in names)


def resolve_checkpoint(
    name: str | os.PathLike[str], revision: str | None = None, allow_pr: bool = False
) -> FamilyCheckpoint:
    """Find the checkpoint that `name` means, bring it to this machine, and read its configs.

    `name`, `revision` and `allow_pr` mean what they mean for `musicgen.model.checkpoint.resolve.resolve_checkpoint`,
    which knows MusicGen alone. Raises `ModelError`.
    """
    name = os.fspath(name)
    place = locate_checkpoint(name, revision, allow_pr, [family.layout for family in list_families()])
    family = find_family(place.folder)
    return FamilyCheckpoint(
        name, place.folder, place.commit, family, family.read_spec(place.folder), place.pull_request
    )


def find_family(folder: Path) -> Family:
    """Return the family of the checkpoint in a folder. Raises `ModelError` if no family knows it."""
    for family in list_families():
        if (folder / family.layout.marker).is_file() and family.recognizes(folder):
            return family
    markers = " or ".join(sorted({family.layout.marker for family in list_families()}))
    names = ", ".join(family.name for family in list_families())
    raise ModelError(f"{folder}: no {markers} of a known family ({names}); give a checkpoint in the published format")
