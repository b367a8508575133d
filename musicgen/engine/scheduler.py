"""Decides which request runs in which slot. Plain Python: no tensors, no clock, no randomness.

A clip's length is known when it is admitted (MusicGen has no end token), so the scheduler knows when the next slot
falls free, and the engine runs that many steps without reading anything back from the device.
"""

from collections import deque
from collections.abc import Hashable
from typing import Generic, TypeVar

Item = TypeVar("Item", bound=Hashable)


class Scheduler(Generic[Item]):
    """Admits items first come, first served, into the lowest free slot.

    Each runs for the steps that `start` gives it.
    """

    def __init__(self, slots: int):
        if slots < 1:
            raise ValueError(f"an engine needs at least one slot, not {slots}")
        self.slots = slots
        self.waiting: deque[Item] = deque()
        self.running: dict[int, Item] = {}  # by slot, in order of admission
        self._steps_left: dict[int, int] = {}  # by slot

    def add(self, item: Item) -> None:
        """Queue an item behind all others."""
        self.waiting.append(item)

    def admit(self) -> tuple[int, Item] | None:
        """Move the next item into a slot and return both, or None if nothing waits or no slot is free.

        `start` must follow.
        """
        if not self.waiting or len(self.running) == self.slots:
            return None
        slot = next(slot for slot in range(self.slots) if slot not in self.running)
        self.running[slot] = self.waiting.popleft()
        return slot, self.running[slot]

    def start(self, slot: int, steps: int) -> None:
        """Set the steps that the item in `slot` needs, at admission and for each further window. Raises ValueError."""
        if slot not in self.running:
            raise ValueError(f"slot {slot} is empty")
        if steps < 1:
            raise ValueError(f"an item runs for at least one step, not {steps}")
        self._steps_left[slot] = steps

    def steps_left(self, slot: int) -> int:
        """Return the steps that the item in `slot` has left; 0 if it has none."""
        return self._steps_left.get(slot, 0)

    @property
    def horizon(self) -> int:
        """Steps until the next slot is done; 0 when nothing runs."""
        return min(self._steps_left.values(), default=0)

    def advance(self, steps: int) -> list[int]:
        """Count `steps` for every running slot and return the slots that are done, in order.

        Raises ValueError beyond the horizon.
        """
        if steps > self.horizon:
            raise ValueError(f"{steps} steps go beyond the next event in {self.horizon}")
        for slot in self._steps_left:
            self._steps_left[slot] -= steps
        done = sorted(slot for slot, left in self._steps_left.items() if left == 0)
        for slot in done:
            del self._steps_left[slot]
        return done

    def release(self, slot: int) -> Item:
        """Take the item out of its slot, finished or failed."""
        self._steps_left.pop(slot, None)
        return self.running.pop(slot)

    def shrink(self, slots: int) -> None:
        """Reduce the number of slots.

        Running items wait again, before all others, in the order of admission. Raises ValueError.
        """
        if not 1 <= slots <= self.slots:
            raise ValueError(f"cannot go from {self.slots} to {slots} slots")
        self.slots = slots
        self.waiting.extendleft(reversed(self.running.values()))
        self.running.clear()
        self._steps_left.clear()

    @property
    def idle(self) -> bool:
        """Whether nothing runs and nothing waits."""
        return not self.running and not self.waiting
