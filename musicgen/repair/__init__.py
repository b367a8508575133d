"""Mends what a verification of a dataset names: `repair_dataset`."""

from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from musicgen.repair.clip_maker import find_run_checkpoint, load_run_engine
    from musicgen.repair.repair import open_repairable, repair_dataset

__all__ = ["find_run_checkpoint", "load_run_engine", "open_repairable", "repair_dataset"]

__getattr__, __dir__, _ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "clip_maker": ["find_run_checkpoint", "load_run_engine"],
        "repair": ["open_repairable", "repair_dataset"],
    },
)
