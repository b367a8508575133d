"""Batch generation of music with MusicGen. Names are imported when they are first used: `import musicgen` is quick.

from musicgen.api import MusicGen, Request
model = MusicGen.from_pretrained("embedded")
clips = model.generate([Request(prompt="warm lo-fi piano, 80 bpm", duration_s=8)])
"""

from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from musicgen.api import MusicGen
    from musicgen.clip import Clip, Failed
    from musicgen.errors import JobError, ManifestError, ModelError, MusicGenError, RowError, StoreError, UserError
    from musicgen.request import Request

__all__ = [
    "Clip",
    "Failed",
    "JobError",
    "ManifestError",
    "ModelError",
    "MusicGen",
    "MusicGenError",
    "Request",
    "RowError",
    "StoreError",
    "UserError",
]

__getattr__, __dir__, _ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "api": ["MusicGen"],
        "clip": ["Clip", "Failed"],
        "errors": ["JobError", "ManifestError", "ModelError", "MusicGenError", "RowError", "StoreError", "UserError"],
        "request": ["Request"],
    },
)
