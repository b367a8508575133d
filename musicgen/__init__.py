"""Batch generation of music with MusicGen. Names are imported when they are first used: `import musicgen` is quick.

from musicgen import MusicGen
model = MusicGen.from_pretrained("embedded")
clip, = model.generate("warm lo-fi piano, 80 bpm")
clip.save("piano.flac")
"""

from typing import TYPE_CHECKING

import lazy_loader

from musicgen.version import package_version

if TYPE_CHECKING:
    from musicgen.api import MusicGen
    from musicgen.clip import Clip, Failed
    from musicgen.errors import JobError, ManifestError, ModelError, MusicGenError, RowError, StoreError, UserError
    from musicgen.request import Request

__version__ = package_version()

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
    "__version__",
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
