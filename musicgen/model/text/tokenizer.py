"""The tokenizer of a checkpoint's text encoder."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from musicgen.errors import ModelError

# transformers' tokenizer for files that say everything, under its names from release 5 on and before.
_DESCRIBED_BY_FILE = ("TokenizersBackend", "PreTrainedTokenizerFast")


@dataclass(frozen=True, slots=True)
class TokenCount:
    """The tokens of a whole prompt, with its marks of begin and end, and how many of them the encoder does not know."""

    total: int = 0
    unknown: int = 0


class PromptTokenizer(Protocol):
    """The tokenizer of prompts."""

    unknown_id: int | None

    def __call__(self, prompt: str, max_tokens: int | None = None) -> list[int]:
        """Return a prompt's tokens with the marks of begin and end, at most `max_tokens` of them."""


class FileTokenizer:
    """The tokenizer that `tokenizer.json` describes in full. Not safe to use from several threads."""

    def __init__(self, folder: Path, unknown: str | None):
        from tokenizers import Tokenizer

        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._tokenizer.no_padding()
        self.unknown_id = None if unknown is None else self._tokenizer.token_to_id(unknown)

    def __call__(self, prompt: str, max_tokens: int | None = None) -> list[int]:
        """See `PromptTokenizer`."""
        if max_tokens is None:
            self._tokenizer.no_truncation()
        else:
            self._tokenizer.enable_truncation(max_tokens)
        return self._tokenizer.encode(prompt).ids


class TransformersTokenizer:
    """A tokenizer of transformers. Not safe to use from several threads."""

    def __init__(self, tokenizer: Any):
        self._tokenizer = tokenizer
        self.unknown_id = tokenizer.unk_token_id

    def __call__(self, prompt: str, max_tokens: int | None = None) -> list[int]:
        """See `PromptTokenizer`."""
        # verbose: a warning about long prompts
        encoding = self._tokenizer(prompt, truncation=max_tokens is not None, max_length=max_tokens, verbose=False)
        return encoding["input_ids"]


def count_tokens(tokenizer: PromptTokenizer, prompt: str) -> TokenCount:
    """Count a prompt's tokens as they are before the encoder cuts them at its longest input."""
    ids = tokenizer(prompt)
    return TokenCount(len(ids), 0 if tokenizer.unknown_id is None else ids.count(tokenizer.unknown_id))


def open_tokenizer(folder: Path, text_config: Mapping[str, object]) -> PromptTokenizer:
    """Open the tokenizer of a checkpoint whose text encoder has `text_config`.

    Where the folder says that `tokenizer.json` is all there is to it, transformers is not imported: it takes seconds.
    Raises `ModelError` without files.
    """
    try:
        config = json.loads((folder / "tokenizer_config.json").read_bytes())
        if config["tokenizer_class"] in _DESCRIBED_BY_FILE and (folder / "tokenizer.json").is_file():
            unknown = config.get("unk_token")
            return FileTokenizer(folder, unknown if isinstance(unknown, str) else None)
    except (OSError, ValueError, KeyError, TypeError):
        pass  # transformers knows what to do without that file
    from transformers import AutoConfig

    kind = str(text_config.get("model_type", "t5"))
    values = {name: value for name, value in text_config.items() if name != "model_type"}
    return TransformersTokenizer(load_tokenizer(folder, AutoConfig.for_model(kind, **values)))


def load_tokenizer(folder: Path, config: Any) -> Any:
    """Load the checkpoint's tokenizer by transformers from its own files; `config` is its text encoder's.

    Raises `ModelError` without files.
    """
    from transformers import AutoTokenizer

    if not any((folder / name).is_file() for name in ("tokenizer.json", "spiece.model", "vocab.json")):
        raise ModelError(f"{folder}: no tokenizer (tokenizer.json or spiece.model); download the checkpoint again")
    try:
        return AutoTokenizer.from_pretrained(folder, config=config, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(f"{folder}: the tokenizer cannot be loaded: {error}") from None
