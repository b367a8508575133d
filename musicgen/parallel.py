"""An ordered map over threads that holds only a few items at a time."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def map_ordered(
    function: Callable[[Item], Result], items: Iterable[Item], *, threads: int, ahead: int | None = None
) -> Iterator[Result]:
    """Yield `function(item)` for each item, in the order of the items, computed by `threads` threads.

    At most `ahead` items (None: twice as many as threads) have been taken from `items` and not yet been yielded, so
    neither the items nor the results need to fit into memory. `items` is read by the calling thread.

    An exception of `function` is raised where its result would have been. After an exception, or when the iterator is
    closed early, calls that have not begun are cancelled and running ones are awaited.
    """
    limit = 2 * threads if ahead is None else ahead
    if threads < 1 or limit < 1:
        raise ValueError(f"an ordered map needs at least one thread and one item, not {threads} and {limit}")
    pool = ThreadPoolExecutor(threads, thread_name_prefix="map_ordered")
    pending: deque[Future[Result]] = deque()
    try:
        for item in items:
            pending.append(pool.submit(function, item))
            if len(pending) >= limit:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
