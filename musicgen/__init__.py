"""Batch generation of music with MusicGen. Names are imported when they are first used: `import musicgen` is quick.

from musicgen import MusicGen, Request
model = MusicGen.from_pretrained("embedded")
clips = model.generate([Request(prompt="warm lo-fi piano, 80 bpm", duration_s=8)])
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

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

_HOMES = {"MusicGen": "api", "Clip": "clip", "Failed": "clip", "Request": "request"}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOMES.get(name, 'errors')}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
