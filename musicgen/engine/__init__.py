"""The generation engine: a fixed number of slots that one decode step moves together.

`scheduler` decides which request runs in which slot (plain Python), `stepper` runs the slots (tensors), `sequence`
holds the codes of one clip over its windows, `decode_queue` turns finished codes into sound, and `engine` connects
them.
"""

from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from musicgen.engine.engine import Engine

__all__ = ["Engine"]

__getattr__, __dir__, _ = lazy_loader.attach(__name__, submod_attrs={"engine": ["Engine"]})  # imports torch
