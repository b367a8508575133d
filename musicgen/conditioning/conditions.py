"""What a clip hears besides its own past: the seam between conditioning and the engine.

A `Conditioner` turns a request into `Prepared` (the slow part, once per request: text encoded, melody fetched), and
`Prepared.window` gives the `Conditions` of one window of the clip (a short clip has one window).
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from musicgen.request import Request

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Branch:
    """One decoder row's view. Both are in the decoder's width, already projected; None (or length 0) adds nothing.

    `cross`: text states for cross-attention, live positions only, no padding  # [S, hidden]
    `prefix`: embeddings in front of the start token (melody, style), padding already zeroed; the decoder adds the
    sinusoidal positions, and the codes go on counting after them  # [P, hidden]
    """

    cross: "Tensor | None" = None
    prefix: "Tensor | None" = None


@dataclass(frozen=True, slots=True, eq=False)
class Conditions:
    """The branches of one window, and how guidance mixes their logits.

    (c,):       c                                     one row of the step
    (c, n):     n + scale (c - n)                     classifier-free guidance, two rows
    (c, w, n):  n + scale (w + beta (c - w) - n)      style's double guidance, three rows (MusicGen-Style, eq. 4)
    All branches of a window have prefixes of one length.
    """

    branches: tuple[Branch, ...]
    scale: float = 1.0
    beta: float = 1.0

    def __post_init__(self) -> None:
        if not 1 <= len(self.branches) <= 3:
            raise ValueError(f"a window has 1, 2 or 3 branches, not {len(self.branches)}")
        if len({0 if b.prefix is None else b.prefix.shape[0] for b in self.branches}) != 1:
            raise ValueError("the branches of a window need prefixes of one length")

    @property
    def prefix_length(self) -> int:
        """Positions in front of the start token."""
        prefix = self.branches[0].prefix
        return 0 if prefix is None else prefix.shape[0]


class Prepared(Protocol):
    """A request whose slow conditioning is done."""

    @property
    def forced(self) -> "Tensor | None":
        """Codes the clip begins with (a continuation's audio prompt), int16 [codebooks, frames], or None."""

    def window(self, start: int, frames: int) -> Conditions:
        """Conditions for the clip's frames [start, start + frames)."""


class Conditioner(Protocol):
    """Prepares requests, on threads beside the engine's."""

    @property
    def sound_positions(self) -> int:
        """The longest prefix of a melody or style in positions, without its text."""

    def expect(self, request: Request) -> None:
        """Start slow work on a request that was queued and will be prepared later; it may do nothing.

        Returns at once.
        """

    def prepare(self, requests: list[Request]) -> list["Prepared | Exception"]:
        """One result per request, in order. A RowError in a place fails that row alone."""

    def close(self) -> None:
        """Stop the threads; unfinished work is dropped."""
