"""The model: a checkpoint found, described and loaded. `resolve_checkpoint` needs no torch; `load_model` does.

checkpoint = resolve_checkpoint("facebook/musicgen-small")
model = load_model(checkpoint)
"""

from typing import TYPE_CHECKING

import lazy_loader

from musicgen.model.checkpoint.resolve import Checkpoint, resolve_checkpoint
from musicgen.model.spec import ModelSpec

if TYPE_CHECKING:
    from musicgen.model.load import Model, load_codec, load_model

__all__ = ["Checkpoint", "Model", "ModelSpec", "load_codec", "load_model", "resolve_checkpoint"]

__getattr__, __dir__, _ = lazy_loader.attach(
    __name__, submod_attrs={"load": ["Model", "load_codec", "load_model"]}
)  # imports torch
