"""The generation engine: a fixed number of slots over a decode step that costs what is live.

`scheduler` decides which request runs in which slot (plain Python), `stepper` runs the slots (tensors), `sequence` follows
one clip through its windows, `decode_queue` turns finished codes into sound, and `engine` holds them together.
"""

from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from musicgen.engine.engine import Engine

__all__ = ["Engine"]

__getattr__, __dir__, _ = lazy_loader.attach(__name__, submod_attrs={"engine": ["Engine"]})  # imports torch
