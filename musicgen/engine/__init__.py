"""The generation engine: a fixed set of slots over a step that costs what is live.

`scheduler` decides who runs (plain Python), `stepper` runs (tensors), `track` follows one clip through its windows,
`beside` prepares conditions and decodes sound meanwhile, and `engine` holds them together.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from musicgen.engine.engine import Engine

__all__ = ["Engine"]


def __getattr__(name: str) -> Any:
    if name == "Engine":  # imports torch
        from musicgen.engine.engine import Engine

        return Engine
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
