"""How many rows an actor should have before it, so that none of its slots waits for the driver."""

from collections.abc import Sequence
from math import ceil

from musicgen.plan import Plan

LEAST_ATTEMPTS = 2  # the next shard is there when one ends
ROWS_AHEAD = 2  # for each slot: an engine prepares the next row of a slot while it makes one
MOST_AUTO_SLOTS = {"gpu": 128, "cpu": 32}  # that an engine chooses by itself


def count_wanted_rows(rows: Sequence[int], settled_rows: int, slots: int) -> int:
    """Return how many more rows an actor should have, 0 if it has enough.

    `rows` are those of the attempts that it holds, the oldest first, `settled_rows` how many of them it has made. Its
    slots should stay full until it gets the next shard, when the oldest one has ended: so the rows of that one do not
    count, nor those that are settled. Rows are begun in order, but long ones end late.
    """
    ahead = min(sum(rows[1:]), sum(rows) - settled_rows)
    return max(ROWS_AHEAD * slots - ahead, int(len(rows) < LEAST_ATTEMPTS))


def count_attempts(plan: Plan, slots: int | str, on_gpu: bool) -> int:
    """Return how many attempts an actor may have to hold at once; `slots` "auto" is not known yet.

    It is twice what rows of one length need, since a long row may be all that is left of a shard.
    """
    rows = sorted(rows for part in plan.parts for rows in part.shard_rows)
    small_shard = rows[len(rows) // 10] if rows else 1
    most_slots = MOST_AUTO_SLOTS["gpu" if on_gpu else "cpu"] if isinstance(slots, str) else slots
    return 2 * ceil(ROWS_AHEAD * most_slots / small_shard) + 1


def count_writers(slots: int) -> int:
    """Return the threads that encode and store the clips of an actor: more slots finish more clips at once."""
    return max(2, min(8, slots), min(32, slots // 4))
