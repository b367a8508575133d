"""Ends an actor's process when its node's Ray daemon (raylet), which is its parent, has ended.

Ray leaves such processes alive for ever, with the memory of their GPU.
"""

import os
import threading
import time

_INTERVAL_S = 1.0


def end_with_parent() -> None:
    """Start a thread that ends this process at once when its parent is another one than now."""
    thread = threading.Thread(target=_watch_parent, args=(os.getppid(),), name="parent watch", daemon=True)
    thread.start()


def _watch_parent(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_INTERVAL_S)
    os._exit(1)
