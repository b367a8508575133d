"""Which request runs in which slot. Plain Python: no tensors, no clock, no randomness.

Lengths are known on admission (MusicGen has no end token), so the scheduler always knows when the next slot falls free,
and the engine runs that many steps without asking anything.
"""

from collections import deque
from collections.abc import Hashable
from typing import Generic, TypeVar

Item = TypeVar("Item", bound=Hashable)


class Scheduler(Generic[Item]):
    """First come, first served, into the lowest free slot. An item runs once at a time, for as many steps as it asks."""

    def __init__(self, slots: int):
        if slots < 1:
            raise ValueError(f"an engine needs at least one slot, not {slots}")
        self.slots = slots
        self.waiting: deque[Item] = deque()
        self.running: dict[int, Item] = {}  # by slot, in order of admission
        self._left: dict[int, int] = {}  # steps, by slot

    def add(self, item: Item) -> None:
        """Queue an item behind all others."""
        self.waiting.append(item)

    def admit(self) -> tuple[int, Item] | None:
        """The next item and its slot, or None: nothing waits, or no slot is free. It must be given its steps by `start`."""
        if not self.waiting or len(self.running) == self.slots:
            return None
        slot = next(s for s in range(self.slots) if s not in self.running)
        self.running[slot] = self.waiting.popleft()
        return slot, self.running[slot]

    def start(self, slot: int, steps: int) -> None:
        """The item in `slot` needs `steps` more steps (again, when a clip goes on with its next window)."""
        if slot not in self.running:
            raise ValueError(f"slot {slot} is empty")
        if steps < 1:
            raise ValueError(f"an item runs for at least one step, not {steps}")
        self._left[slot] = steps

    @property
    def horizon(self) -> int:
        """Steps until the next slot is done; 0 when nothing runs."""
        return min(self._left.values(), default=0)

    def advance(self, steps: int) -> list[int]:
        """Count `steps` for every running slot; returns the slots that are done, in order. Never beyond the horizon."""
        if steps > self.horizon:
            raise ValueError(f"{steps} steps go beyond the next event in {self.horizon}")
        for slot in self._left:
            self._left[slot] -= steps
        done = sorted(slot for slot, left in self._left.items() if left == 0)
        for slot in done:
            del self._left[slot]
        return done

    def release(self, slot: int) -> Item:
        """The item leaves its slot, finished or failed."""
        self._left.pop(slot, None)
        return self.running.pop(slot)

    def shrink(self, slots: int) -> None:
        """Go on with fewer slots. What runs begins again, before everything that waits, in the order it was admitted."""
        if not 1 <= slots <= self.slots:
            raise ValueError(f"cannot go from {self.slots} to {slots} slots")
        self.slots = slots
        self.waiting.extendleft(reversed(self.running.values()))
        self.running.clear()
        self._left.clear()

    @property
    def idle(self) -> bool:
        """Nothing runs and nothing waits."""
        return not self.running and not self.waiting
