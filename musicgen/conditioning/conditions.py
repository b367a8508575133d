"""Defines the interface between conditioning and the engine.

A `Conditioner` turns a request into a `Prepared` (the slow part, once per request: text encoded, melody fetched), and
`Prepared.window` gives the `Conditions` of one window of the clip (a short clip has one window).
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from musicgen.model.text.tokenizer import TokenCount
from musicgen.request import Request

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Branch:
    """The conditions of one decoder row, already projected to the decoder's width; None (or length 0) adds nothing.

    `cross`, [S, hidden]: text states for cross-attention, without padding.
    `prefix`, [P, hidden]: embeddings in front of the start token (melody, style), with padding set to zero. The decoder
    adds the sinusoidal positions, and the positions of the codes follow those of the prefix.
    `shared`, [>= P, hidden]: a tensor that many requests' prefixes are the beginning of, this one too: its keys and
    values are computed once.
    """

    cross: "Tensor | None" = None
    prefix: "Tensor | None" = None
    shared: "Tensor | None" = None


@dataclass(frozen=True, slots=True, eq=False)
class Conditions:
    """The branches of one window, and how guidance combines their logits.

    (c,):       c                                     one row of the step
    (c, n):     n + scale (c - n)                     classifier-free guidance, two rows
    (c, w, n):  n + scale (w + beta (c - w) - n)      style's double guidance, three rows (MusicGen-Style, eq. 4)
    All branches of a window have prefixes of the same length; the last one's may be shared.
    """

    branches: tuple[Branch, ...]
    scale: float = 1.0
    beta: float = 1.0

    def __post_init__(self) -> None:
        if not 1 <= len(self.branches) <= 3:
            raise ValueError(f"a window has 1, 2 or 3 branches, not {len(self.branches)}")
        if len({0 if branch.prefix is None else branch.prefix.shape[0] for branch in self.branches}) != 1:
            raise ValueError("the branches of a window need prefixes of one length")
        if any(branch.shared is not None for branch in self.branches[:-1]):
            raise ValueError("only the last branch's prefix can be shared")

    @property
    def prefix_length(self) -> int:
        """Return the number of positions in front of the start token."""
        prefix = self.branches[0].prefix
        return 0 if prefix is None else prefix.shape[0]


class Prepared(Protocol):
    """A request whose slow conditioning is finished."""

    @property
    def forced(self) -> "Tensor | None":
        """Return the codes that the clip begins with (of a continuation), int16 [codebooks, frames], or None."""

    @property
    def prompt_tokens(self) -> TokenCount:
        """Return how many tokens the text encoder makes of the prompt, before it cuts it."""

    def window(self, start: int, frames: int) -> Conditions:
        """Return the conditions for the clip's frames [start, start + frames)."""


class Conditioner(Protocol):
    """Prepares requests on background threads."""

    @property
    def sound_positions(self) -> int:
        """Return the length of the longest prefix of a melody or style in positions, without its text."""

    def expect(self, request: Request) -> None:
        """Start the slow work on a queued request that will be prepared later, and return at once; may do nothing."""

    def prepare(self, requests: list[Request]) -> list["Prepared | Exception"]:
        """Prepare requests and return one result per request, in order. A RowError concerns its own row alone."""

    def close(self) -> None:
        """Stop the threads and drop unfinished work."""
