"""Saves and loads a training's state: weights, their average, the optimizer's moments, and counters.

The tensors are in safetensors, the counters in JSON. A state is written under a temporary name and then renamed, so
that a state with its final name is complete; the last two are kept.
"""

import json
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from torch import Tensor

from musicgen.errors import UserError

_KEPT = 2
_NAME = re.compile(r"step-(\d{8})")


@dataclass(slots=True)
class Counters:
    """The counters of a training. Everything that is drawn is a function of the seed and these."""

    step: int = 0
    seen: int = 0  # clips
    frames: int = 0
    seconds: float = 0.0  # of running


def save_state(folder: Path, tensors: Mapping[str, Tensor], counters: Counters, about: Mapping[str, object]) -> None:
    """Write a state into `folder`; `about` are the properties of the training that it belongs to."""
    from safetensors.torch import save_file

    name = f"step-{counters.step:08d}"
    partial = folder / f"{name}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    save_file(dict(tensors), partial / "state.safetensors")
    (partial / "state.json").write_text(
        json.dumps({"counters": asdict(counters), "about": dict(about)}, indent=1) + "\n", encoding="utf-8"
    )
    _sync_files(partial)
    shutil.rmtree(folder / name, ignore_errors=True)
    os.replace(partial, folder / name)
    for obsolete in _state_folders(folder)[:-_KEPT]:
        shutil.rmtree(obsolete)


def load_state(folder: Path, about: Mapping[str, object]) -> tuple[dict[str, Tensor], Counters] | None:
    """Load the latest state in `folder`; None if there is none. Raises `UserError` if `about` differs."""
    from safetensors.torch import load_file

    states = _state_folders(folder)
    if not states:
        return None
    document = json.loads((states[-1] / "state.json").read_text(encoding="utf-8"))
    for key, value in about.items():
        if document["about"].get(key) != value:
            saved_value = document["about"].get(key)
            raise UserError(
                f"{folder}: holds a training whose {key} is {saved_value!r}, not {value!r}; go on with that, or give "
                "another --output"
            )
    return load_file(states[-1] / "state.safetensors"), Counters(**document["counters"])


def _state_folders(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if _NAME.fullmatch(path.name))


def _sync_files(folder: Path) -> None:
    for path in folder.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())
