"""Fetches what is to be converted, and opens nothing: a folder, an object-store folder or a hub repository."""

import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Literal

from musicgen.errors import ModelError
from musicgen.model.checkpoint.hub import download_files, list_hub_files
from musicgen.model.checkpoint.identity import PROCESSOR_FILES
from musicgen.model.checkpoint.staging import stage_from_store
from musicgen.presets import find_preset, suggest_names

Format = Literal["pickled", "audiocraft"]

_AUDIOCRAFT_FILES = ("state_dict.bin", "compression_state_dict.bin")
_SAFETENSORS = ("model.safetensors", "model-*.safetensors", "model.safetensors.index.json")
_PICKLES = ("pytorch_model.bin", "pytorch_model-*.bin", "pytorch_model.bin.index.json")
_SMALL_FILES = ("config.json", "generation_config.json", *PROCESSOR_FILES)
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")

Choose = Callable[[str, Sequence[str]], Collection[str]]  # what is read, the paths of its files -> those that matter


@dataclass(frozen=True, slots=True)
class FetchedSource:
    """A folder on this machine; `commit` is None if it is not of the hub."""

    name: str
    folder: Path
    commit: str | None = None

    def __str__(self) -> str:
        return f"{self.name}@{self.commit}" if self.commit else self.name


def fetch_source(name: str, revision: str | None) -> tuple[FetchedSource, Format]:
    """Fetch the files of a checkpoint. Raises `ModelError`, also for one that needs no conversion.

    A repository that holds both formats is converted from transformers' one, which is complete.
    """
    preset = find_preset(name)
    if preset is not None and preset.hub is not None and not Path(name).is_dir():
        name = preset.hub
    fetched = _fetch(name, revision, _choose_source_files)
    is_pickled = bool(_matching([file.name for file in fetched.folder.iterdir()], _PICKLES))
    return fetched, "pickled" if is_pickled else "audiocraft"


def fetch_companion(name: str) -> FetchedSource:
    """Fetch a model that a checkpoint needs: its config, tokenizer and weights. Raises `ModelError`."""
    name, _, revision = name.partition("@") if _HUB_NAME.fullmatch(name.partition("@")[0]) else (name, "", "")
    return _fetch(name, revision or None, _choose_model_files)


def _fetch(name: str, revision: str | None, choose: Choose) -> FetchedSource:
    path = Path(name).expanduser()
    if "://" in name or path.is_dir():
        if revision is not None:
            raise ModelError(f"--revision {revision} means nothing for {name}: only hub models have revisions")
        if "://" in name:
            return FetchedSource(name, stage_from_store(name, lambda names: choose(name, names)))
        choose(name, [file.name for file in path.iterdir()])
        return FetchedSource(name, path.resolve())
    if path.is_absolute() or name.startswith((".", "~")) or not _HUB_NAME.fullmatch(name):
        raise ModelError(f"no model {name!r}: {suggest_names(name)}")
    commit, names = list_hub_files(name, revision)
    files = choose(name, names)
    return FetchedSource(name, download_files(name, commit, list(files)), commit)


def _choose_source_files(name: str, names: Sequence[str]) -> list[str]:
    if _matching(names, _SAFETENSORS):
        raise ModelError(f"{name}: holds safetensors; there is nothing to convert, give it as model.name")
    if pickles := _matching(names, _PICKLES):
        if "config.json" not in names:
            raise ModelError(f"{name}: holds {pickles[0]} and no config.json; it is no checkpoint of transformers")
        return [*pickles, *_matching(names, _SMALL_FILES)]
    if missing := [file for file in _AUDIOCRAFT_FILES if file not in names]:
        raise ModelError(
            f"{name}: holds neither pytorch_model.bin nor audiocraft's {' and '.join(_AUDIOCRAFT_FILES)} "
            f"(without {missing[0]}); there is nothing to convert"
        )
    return list(_AUDIOCRAFT_FILES)


def _choose_model_files(name: str, names: Sequence[str]) -> list[str]:
    weights = _matching(names, _SAFETENSORS) or _matching(names, _PICKLES)
    if not weights or "config.json" not in names:
        raise ModelError(f"{name}: holds no model in transformers' format (config.json with its weights)")
    return [*weights, *_matching(names, _SMALL_FILES)]


def _matching(names: Sequence[str], patterns: Sequence[str]) -> list[str]:
    return [name for name in names if any(fnmatch(name, pattern) for pattern in patterns)]
