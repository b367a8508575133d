"""A checkpoint in the published format before it is written: configs, files to copy, and the places of the tensors."""

import json
import re
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from musicgen.errors import ModelError
from musicgen.model.checkpoint.identity import PROCESSOR_FILES
from musicgen.model.convert.pickles import Weights
from musicgen.model.convert.safetensors_file import OnBytes, Part, write_safetensors
from musicgen.value_types import JsonObject

TOKENIZER_FILES = tuple(name for name in PROCESSOR_FILES if name != "preprocessor_config.json")


@dataclass
class Converted:
    """What is to be written into the new folder."""

    tensors: dict[str, list[Part]]
    documents: dict[str, JsonObject] = field(default_factory=dict)  # JSON files by name
    copies: list[Path] = field(default_factory=list)

    def write(self, folder: Path, on_bytes: OnBytes) -> None:
        """Write all files into an existing folder."""
        for path in self.copies:
            shutil.copyfile(path, folder / path.name)
        for name, document in self.documents.items():
            (folder / name).write_text(json.dumps(document, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        write_safetensors(folder / "model.safetensors", self.tensors, on_bytes)


def existing_files(folder: Path, names: Iterable[str]) -> list[Path]:
    """Return the paths of those files that are there."""
    return [folder / name for name in names if (folder / name).is_file()]


def read_config(folder: Path) -> JsonObject:
    """Read a model's config.json. Raises `ModelError`."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{folder}: its config.json cannot be read ({error})") from None
    if not isinstance(config, dict):
        raise ModelError(f"{folder}/config.json: not a JSON object")
    return config


def whole(weights: Weights, name: str) -> list[Part]:
    """Return one tensor as it is."""
    return [lambda: weights[name]]


def rows(weights: Weights, name: str, share: int, shares: int) -> list[Part]:
    """Return one of equal shares of a tensor's rows: the queries of a stacked [3 hidden, hidden], say."""
    return [lambda: weights[name].chunk(shares)[share]]


def rename(
    weights: Weights, names: Iterable[str], rules: Mapping[str, str], prefix: str, where: str
) -> dict[str, list[Part]]:
    """Rename tensors by the first rule (pattern -> replacement) that matches the whole name; "" drops the tensor.

    Raises `ModelError` for a name without a rule: a part of a model that is not known here.
    """
    renamed = {}
    for name in names:
        for pattern, replacement in rules.items():
            if (match := re.fullmatch(pattern, name)) is not None:
                if replacement:
                    renamed[prefix + match.expand(replacement)] = whole(weights, name)
                break
        else:
            raise ModelError(f"{where}: the tensor {name} is not known; this kind of model cannot be converted")
    return renamed
