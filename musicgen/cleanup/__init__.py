"""Deletes what a dataset does not need: the audio and rows of removed clips, and what killed processes have left."""

from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from musicgen.cleanup.collection import collect_garbage, find_garbage

__all__ = ["collect_garbage", "find_garbage"]

__getattr__, __dir__, _ = lazy_loader.attach(__name__, submod_attrs={"collection": ["collect_garbage", "find_garbage"]})
