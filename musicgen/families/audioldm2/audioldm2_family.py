"""AudioLDM 2 (Liu et al. 2023, "AudioLDM 2: Learning holistic audio generation with self-supervised pretraining"), by
diffusers.
"""

import hashlib
import json
from importlib.util import find_spec
from pathlib import Path

from musicgen.errors import ModelError
from musicgen.families.audioldm2.checkpoint_sizes import COMPONENTS, PIPELINE_CLASS, AudioLdm2Spec, read_spec
from musicgen.families.family import EngineSettings, FamilyCheckpoint, GenerationEngine
from musicgen.model.checkpoint.identity import file_sha256
from musicgen.model.checkpoint.layout import FileLayout
from musicgen.value_types import JsonObject

_VERSION = "1"
_LIBRARIES = (None, "diffusers", "transformers", "audioldm2")  # of components; None: an entry that is no component
_WEIGHTS = ("model*.safetensors", "diffusion_pytorch_model*.safetensors")
_PATTERNS = (
    "model_index.json",
    *(f"{component}/*.json" for component in COMPONENTS),
    *(f"{component}/{weights}" for component in COMPONENTS for weights in _WEIGHTS),
    "tokenizer*/merges.txt",
    "tokenizer*/spiece.model",
)
_WITH_WEIGHTS = ("unet", "vae", "vocoder", "text_encoder", "text_encoder_2", "projection_model", "language_model")


def _read_index(folder: Path) -> JsonObject:
    """Read diffusers' index: its entries are texts, or [library, class] of a component. Empty if it is none."""
    try:
        index = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return index if isinstance(index, dict) else {}


def _library(entry: object) -> str | None:
    """Return the library of a component; None for one that is left out, which diffusers writes as [null, null]."""
    return str(entry[0]) if isinstance(entry, list) and entry and entry[0] is not None else None


def _is_complete(folder: Path) -> bool:
    return not _find_missing_weights(folder)


def _find_missing_weights(folder: Path) -> list[str]:
    """List the components that have no safetensors."""
    return [
        component
        for component in _WITH_WEIGHTS
        if not any(path for weights in _WEIGHTS for path in (folder / component).glob(weights))
    ]


class AudioLdm2Family:
    """See `musicgen.families.family.Family`."""

    name = "audioldm2"
    layout = FileLayout("model_index.json", _PATTERNS, _is_complete)

    def recognizes(self, folder: Path) -> bool:
        """Whether diffusers' index of components names AudioLDM 2's pipeline."""
        return _read_index(folder).get("_class_name") == PIPELINE_CLASS

    def read_spec(self, folder: Path) -> AudioLdm2Spec:
        """See `Family.read_spec`."""
        foreign = [name for name, entry in _read_index(folder).items() if _library(entry) not in _LIBRARIES]
        if foreign:  # diffusers would import whatever is named there
            raise ModelError(
                f"{folder}: model_index.json names another library for {', '.join(foreign)}; it is not used"
            )
        if missing := _find_missing_weights(folder):
            raise ModelError(
                f"{folder}: no safetensors in {', '.join(missing)}; give an AudioLDM 2 checkpoint in the published "
                "format (pickled weights are never opened)"
            )
        return read_spec(folder)

    def identify(self, folder: Path) -> str:
        """Hash the names and contents of all files that decide the sound."""
        files = {path for pattern in _PATTERNS for path in folder.glob(pattern) if path.is_file()}
        digest = hashlib.sha256(f"audioldm2 checkpoint {_VERSION}\n".encode())
        for path in sorted(files):
            digest.update(f"{path.relative_to(folder).as_posix()} {file_sha256(path.resolve())}\n".encode())
        return digest.hexdigest()

    def load_engine(self, checkpoint: FamilyCheckpoint, settings: EngineSettings) -> GenerationEngine:
        """See `Family.load_engine`. `slots` is not asked: clips are made one by one."""
        if find_spec("diffusers") is None:
            raise ModelError("AudioLDM 2 needs diffusers: pip install '.[diffusion]'")
        from musicgen.families.audioldm2.pipeline import load_denoising_engine  # torch, which planning does without

        assert isinstance(checkpoint.spec, AudioLdm2Spec)
        return load_denoising_engine(checkpoint.folder, checkpoint.spec, settings)


FAMILY = AudioLdm2Family()
