"""Compares a dataset's card with its index: what bears our marks must be what publishing it now would write."""

import re
from dataclasses import dataclass, field

from musicgen.dataset import paths
from musicgen.dataset.card import render_config
from musicgen.dataset.card_text import COST_LINE
from musicgen.dataset.reader import Dataset
from musicgen.dataset.readme import Card
from musicgen.dataset.whole_file import read_patiently
from musicgen.own_checksum import blank_text, check_text

_BEGIN = b"<!-- musicgen:begin"
_COST = re.compile(rf"\n{COST_LINE}.*\n")


@dataclass
class CardState:
    """What is wrong with the card's files: path and description; and what is no fault, as sentences."""

    faults: list[tuple[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def compare_card(dataset: Dataset, card: Card, is_published: bool) -> CardState:
    """Compare the card's files with `card`, that of the index as it is.

    If a run is not published yet (`is_published`) they are compared with their own checksums alone. A README that was
    edited outside the marks is no fault.
    """
    state = CardState()
    contents = {path: _read(dataset, path) for path in (paths.README, paths.README_BESIDE)}
    ours = {path: content for path, content in contents.items() if content and _is_ours(content)}
    if not ours:
        state.faults.append((paths.README, "no file has the dataset's card"))
    for path, content in ours.items():
        _compare_file(state, card, path, content, is_published)
    if is_published and (stored := _read(dataset, paths.HUGGINGFACE_CONFIG)) is not None:
        expected = render_config(dataset, card, is_needed=paths.README not in ours)
        if expected is not None and stored != expected:
            state.faults.append((paths.HUGGINGFACE_CONFIG, "it is not what the card says to `load_dataset`"))
    return state


def _is_ours(content: bytes) -> bool:
    """Whether a file has our part, or had it before one of the marks was damaged."""
    return _BEGIN in content or check_text(content) != "absent"


def _compare_file(state: CardState, card: Card, path: str, content: bytes, is_published: bool) -> None:
    is_right = check_text(content) == "right"
    if is_right and not is_published:
        return
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        state.faults.append((path, "the card is not text"))
        return
    merged = card.merge_into(text)
    if merged is None:
        state.faults.append((path, "the marks of the card, or its front matter, cannot be read"))
    elif is_published and _differs(blank_text(merged), blank_text(text), with_cost=not is_right):
        state.faults.append((path, "the card is not that of the index"))
    elif not is_right:
        state.notes.append(f"{path} was changed outside the card since it was published; that part is yours")


def _differs(expected: str, text: str, with_cost: bool) -> bool:
    """Whether two cards differ; a driver may report what it has cost after another has written the card."""
    if with_cost:
        return expected != text
    return _COST.sub("", expected) != _COST.sub("", text)


def _read(dataset: Dataset, path: str) -> bytes | None:
    try:
        return read_patiently(dataset.store, path)
    except FileNotFoundError:
        return None
