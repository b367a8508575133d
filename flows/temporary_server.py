"""A Prefect API for one command: `python -m flows.temporary_server PORT`, until its stdin closes.

Its own process, and its own session: Ctrl-C in a terminal must not take it away before the flow has said how it ended,
and whatever becomes of the command, even SIGKILL, closes the pipe. Prefect's own temporary server does neither, and
starting it imports the whole server into the command's process first, five seconds before anything begins.
"""

import os
import signal
import sys
import threading
import time


def _end_with_parent() -> None:
    while os.read(0, 4096):  # sys.stdin would hold its lock, and an interpreter that ends meanwhile would abort
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(3)
    os._exit(0)


def main(port: int) -> None:
    """Serve on loopback."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    import uvicorn

    uvicorn.run(
        "prefect.server.api.server:create_app",
        factory=True,
        host="127.0.0.1",
        port=port,
        log_level="error",
        lifespan="on",
        timeout_graceful_shutdown=1,
    )


if __name__ == "__main__":
    main(int(sys.argv[1]))
