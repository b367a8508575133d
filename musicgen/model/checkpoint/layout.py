"""Which files a checkpoint in a published format consists of."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from musicgen.model.checkpoint.identity import CHECKPOINT_FILE_PATTERNS
from musicgen.model.checkpoint.weights import has_weights


@dataclass(frozen=True, slots=True)
class FileLayout:
    """The files that are fetched from a hub or bucket: configs, tokenizers, safetensors, and nothing pickled."""

    marker: str  # the file by which a folder is recognized
    patterns: tuple[str, ...]  # of the names of files to fetch; `*` matches slashes too
    is_complete: Callable[[Path], bool]  # whether a folder of this layout has its weights


MUSICGEN_LAYOUT = FileLayout("config.json", CHECKPOINT_FILE_PATTERNS, has_weights)
