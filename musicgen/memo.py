"""A thread-safe memo of the last few results: a melody that a thousand rows share is decoded once."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


class Memo(Generic[Key, Value]):
    """The last `size` results by key; the least recently used is dropped first. Concurrent calls for one key compute
    once.

    An exception is not remembered: it is raised where the computation ran, and the next call computes again.
    """

    def __init__(self, size: int):
        self.size = size
        self._results: OrderedDict[Key, Value] = OrderedDict()
        self._computing: dict[Key, threading.Event] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        """Results that are remembered."""
        return len(self._results)

    def __contains__(self, key: Key) -> bool:
        return key in self._results

    def get(self, key: Key, compute: Callable[[], Value]) -> Value:
        """Return the result for `key`: remembered, awaited from another thread that computes it, or computed here."""
        while True:
            with self._lock:
                if key in self._results:
                    self._results.move_to_end(key)
                    return self._results[key]
                computing = self._computing.get(key)
                if computing is None:
                    done = self._computing[key] = threading.Event()
                    break
            computing.wait()
        try:
            value = compute()
            with self._lock:
                self._results[key] = value
                while len(self._results) > self.size:
                    self._results.popitem(last=False)
            return value
        finally:
            with self._lock:
                del self._computing[key]
            done.set()
