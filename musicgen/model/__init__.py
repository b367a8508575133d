"""The model: a checkpoint found, described and loaded. `resolve_checkpoint` needs no torch; `load_model` does.

checkpoint = resolve_checkpoint("facebook/musicgen-small")
model = load_model(checkpoint)
"""

from typing import TYPE_CHECKING, Any

from musicgen.model.checkpoint import Checkpoint, resolve_checkpoint
from musicgen.model.spec import ModelSpec

if TYPE_CHECKING:
    from musicgen.model.loading import Model, load_codec, load_model

__all__ = ["Checkpoint", "Model", "ModelSpec", "load_codec", "load_model", "resolve_checkpoint"]


def __getattr__(name: str) -> Any:
    if name in ("Model", "load_codec", "load_model"):  # these import torch
        from musicgen.model import loading

        return getattr(loading, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
