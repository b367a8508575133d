"""Compute a thing once, remember the last few: what makes a melody that a thousand rows share cost one decoding."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Once(Generic[K, V]):
    """The last `size` results by key, least recently used out first. Threads that want the same key wait for one of them.

    An exception is not remembered: it goes to the one who computed, and the next one tries again.
    """

    def __init__(self, size: int):
        self.size = size
        self.computed = 0
        self._known: OrderedDict[K, V] = OrderedDict()
        self._busy: dict[K, threading.Event] = {}
        self._lock = threading.Lock()

    def get(self, key: K, compute: Callable[[], V]) -> V:
        """The result for `key`, computed here if nobody has it or is at it."""
        while True:
            with self._lock:
                if key in self._known:
                    self._known.move_to_end(key)
                    return self._known[key]
                waiting = self._busy.get(key)
                if waiting is None:
                    done = self._busy[key] = threading.Event()
                    break
            waiting.wait()
        try:
            value = compute()
            with self._lock:
                self.computed += 1
                self._known[key] = value
                while len(self._known) > self.size:
                    self._known.popitem(last=False)
            return value
        finally:
            with self._lock:
                del self._busy[key]
            done.set()
