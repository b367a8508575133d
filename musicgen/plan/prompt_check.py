"""Counts the prompts that the text encoder cannot read in full, before any clip is made of them.

They are made all the same; the index columns `prompt_tokens` and `prompt_unknown` tell them. Only prompts that could be
such ones are tokenized: long ones, and those with other characters than the ASCII that the tokenizer has. T5 alone is
checked, by the tokenizer in the checkpoint's folder, which needs no torch.
"""

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow as pa
    from tokenizers import Tokenizer

_ASCII = "".join(map(chr, range(33, 127)))

_MAX_TOKENS = 512  # musicgen/model/text/encoder.py, which would load torch
_MOST_CHECKED = 20_000  # prompts: about a second


@dataclass(frozen=True, slots=True)
class PromptCheck:
    """Rows whose prompt has parts that the encoder does not know, nothing that it knows, or more than it takes.

    `is_partial` says that there were more to check than were checked, so that the counts are the least.
    """

    unknown: int = 0
    unreadable: int = 0  # of those with unknown parts
    cut: int = 0
    is_partial: bool = False

    def describe(self) -> list[str]:
        """Return sentences for the user; none if all prompts can be read."""
        least = "at least " if self.is_partial else ""
        lines = []
        if self.unknown:
            rest = f"; {self.unreadable} of them have nothing else, and sound as if without a prompt"
            lines.append(
                f"Prompts with parts that the text encoder does not know (emoji, other scripts): {least}{self.unknown}"
                f"{rest if self.unreadable else ''}. The column `prompt_unknown` tells them."
            )
        if self.cut:
            lines.append(
                f"Prompts that are cut, because the text encoder takes {_MAX_TOKENS} tokens: {least}{self.cut}. "
                "The column `prompt_tokens` has their full lengths."
            )
        return lines


def check_prompts(folder: Path, rows: "Iterable[pa.Table]") -> PromptCheck:
    """Count over the rows' column `prompt`, with the T5 tokenizer in a checkpoint's folder; nothing without one."""
    if not _has_t5_tokenizer(folder):
        return PromptCheck()
    import pyarrow.compute as pc
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    known_letters = [letter for letter in _ASCII if tokenizer.token_to_id(letter) is not None]
    suspect = f"[^ {re.escape(''.join(known_letters))}]"
    suspects: list[str] = []
    is_partial = False
    for table in rows:
        prompts = table.column("prompt")
        is_suspect = pc.or_(
            pc.greater(pc.utf8_length(prompts), _MAX_TOKENS // 2), pc.match_substring_regex(prompts, suspect)
        )
        suspects += prompts.filter(is_suspect).to_pylist()
        if len(suspects) > _MOST_CHECKED:
            is_partial = True
            break
    return _count(tokenizer, suspects[:_MOST_CHECKED], is_partial) if suspects else PromptCheck()


def _count(tokenizer: "Tokenizer", prompts: list[str], is_partial: bool) -> PromptCheck:
    unknown_id = tokenizer.token_to_id("<unk>")
    marks = {*tokenizer.encode("").ids, *_space_ids(tokenizer), unknown_id}  # what is no part of a prompt
    unknown = unreadable = cut = 0
    for encoding in tokenizer.encode_batch(prompts):
        ids = encoding.ids
        if unknown_id in ids:
            unknown += 1
            unreadable += marks.issuperset(ids)
        cut += len(ids) > _MAX_TOKENS
    return PromptCheck(unknown, unreadable, cut, is_partial)


def _space_ids(tokenizer: "Tokenizer") -> set[int]:
    space_id = tokenizer.token_to_id("▁")
    return set() if space_id is None else {space_id}


def _has_t5_tokenizer(folder: Path) -> bool:
    try:
        config = json.loads((folder / "config.json").read_bytes())
        return config["text_encoder"]["model_type"] == "t5" and (folder / "tokenizer.json").is_file()
    except (OSError, ValueError, KeyError, TypeError):
        return False
