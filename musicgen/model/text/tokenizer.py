"""The tokenizer of a checkpoint's text encoder."""

from pathlib import Path
from typing import Any

from musicgen.errors import ModelError


def load_tokenizer(folder: Path, config: Any) -> Any:
    """Load the checkpoint's tokenizer from its own files; `config` is its text encoder's.

    Raises `ModelError` without files.
    """
    from transformers import AutoTokenizer

    if not any((folder / name).is_file() for name in ("tokenizer.json", "spiece.model", "vocab.json")):
        raise ModelError(f"{folder}: no tokenizer (tokenizer.json or spiece.model); download the checkpoint again")
    try:
        return AutoTokenizer.from_pretrained(folder, config=config, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(f"{folder}: the tokenizer cannot be loaded: {error}") from None
