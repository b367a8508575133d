"""The presets: checkpoints that `configs/models/` describes, one YAML file each, with the controls that they offer."""

import difflib
from functools import lru_cache
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from musicgen.errors import ModelError

WORKS = "works"
EMBEDDED = "embedded"  # the preset inside the package

Control = Literal["text", "unconditional", "long", "continuation", "melody", "style", "stereo"]


class Preset(BaseModel):
    """One checkpoint, as its file describes it. `status` is "works", or the reason why it does not yet."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    hub: str | None  # the name on the Hugging Face hub; None for the one inside the package
    revision: str | None
    commit_prefix: str | None = Field(default=None, pattern="^[0-9a-f]{7,40}$")  # of the commit of `revision`
    description: str
    family: str = "musicgen"
    kind: Literal["text", "melody", "style", "diffusion"]
    parameters: int | None = Field(ge=1)  # of the decoder
    window_s: float = Field(gt=0)
    sample_rate: int = Field(ge=1)  # Hz
    frame_rate: float = Field(gt=0)  # codec frames per second
    codebooks: int | None = Field(ge=1)
    codebook_size: int | None = Field(ge=1)
    channels: Literal[1, 2]
    pattern: str | None
    controls: tuple[Control, ...]
    license: str  # of the weights
    status: str

    @property
    def works(self) -> bool:
        """Whether it can be used today."""
        return self.status == WORKS


def config_file(*path: str) -> Traversable:
    """Return a file of `configs/`: `config_file("jobs", "demo.yaml")`.

    The files are data of the package: `musicgen/configs` is a folder in a wheel and on a Ray worker, and in the source
    tree a symbolic link to `configs/`. Where an archive or a file system has lost the link, `configs/` itself is read.
    """
    folder = files("musicgen").joinpath("configs")
    if not folder.is_dir():
        folder = Path(__file__).parents[1] / "configs"
    return folder.joinpath(*path)


def resolve_config(path: str | Path) -> str:
    """Return the path as it is, or the file of the package for a `configs/...` that does not exist here.

    So the example jobs can be run from any folder: `musicgen run configs/jobs/demo.yaml`.
    """
    text = str(path)
    if text.startswith("configs/") and not Path(text).exists():
        shipped = config_file(*text.split("/")[1:])
        if shipped.is_file():
            return str(shipped)
    return text


@lru_cache(maxsize=1)
def all_presets() -> tuple[Preset, ...]:
    """Return every preset, the embedded one first, then by name. Raises `ModelError` for a file that is wrong."""
    presets = []
    for file in config_file("models").iterdir():
        if not file.name.endswith(".yaml"):
            continue
        try:
            preset = Preset.model_validate(yaml.safe_load(file.read_text(encoding="utf-8")))
        except (yaml.YAMLError, ValidationError) as error:
            raise ModelError(
                f"configs/models/{file.name} is no model preset: {' '.join(str(error).split())[:300]}"
            ) from None
        if file.name != f"{preset.name}.yaml":
            raise ModelError(
                f"configs/models/{file.name} names itself {preset.name!r}; the file's name is the preset's"
            )
        presets.append(preset)
    return tuple(sorted(presets, key=lambda preset: (preset.hub is not None, preset.name)))


def find_preset(name: str) -> Preset | None:
    """Return the preset of this name or hub name; None if there is none."""
    return next((preset for preset in all_presets() if name in (preset.name, preset.hub)), None)


def preset_names() -> list[str]:
    """Return the names of the presets on the hub (all but the embedded one)."""
    return [preset.name for preset in all_presets() if preset.hub is not None]


def suggest_names(name: str) -> str:
    """Say what a name of no model could have been, for an error message."""
    known = [EMBEDDED, *preset_names()]
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    suggestion = f"did you mean {close[0]!r}? " if close else ""
    return (
        f"{suggestion}It may be a preset ({', '.join(known)}), a hub name such as facebook/musicgen-small, a "
        "folder, or s3://bucket/folder"
    )


def presets_with(control: str, channels: int | None = None) -> list[str]:
    """Return the names of the working presets that offer a control: first those with as many channels, the embedded one
    last.
    """
    able = [preset for preset in all_presets() if preset.works and control in preset.controls]
    able.sort(key=lambda preset: (preset.hub is None, channels is not None and preset.channels != channels))
    return [preset.name for preset in able]
