"""The tokenizer of a checkpoint's text encoder."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from musicgen.errors import ModelError


@dataclass(frozen=True, slots=True)
class TokenCount:
    """The tokens of a whole prompt, with its marks of begin and end, and how many of them the encoder does not know."""

    total: int = 0
    unknown: int = 0


def count_tokens(tokenizer: Any, prompt: str) -> TokenCount:
    """Count a prompt's tokens as they are before the encoder cuts them at its longest input."""
    ids = tokenizer(prompt, truncation=False, verbose=False)["input_ids"]  # verbose: a warning about long prompts
    return TokenCount(len(ids), ids.count(tokenizer.unk_token_id))


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
