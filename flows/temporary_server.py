"""A Prefect API for one run: `python -m flows.temporary_server PORT`, until its stdin closes.

Its own process: whatever becomes of the one that has started it, even SIGKILL, closes the pipe. Prefect's own temporary
server does not end then, and starting it imports the whole server into the process that starts it first.
"""

import os
import shutil
import sys
import threading
from pathlib import Path

from flows.prefect_database import write_empty_database

_NICENESS = 10  # nothing waits for this server, and the run is not to wait for the processor


def _end_with_parent(home: str) -> None:
    while os.read(0, 4096):  # sys.stdin would hold its lock, and an interpreter that ends meanwhile would abort
        pass
    os.rename(home, f"{home}.old")  # SQLite makes no new files in a folder that is not there
    shutil.rmtree(f"{home}.old", ignore_errors=True)
    os._exit(0)


def main(port: int) -> None:
    """Serve on loopback, with the database in PREFECT_HOME, which is removed at the end."""
    os.nice(_NICENESS)
    threading.Thread(target=_end_with_parent, args=(os.environ["PREFECT_HOME"],), daemon=True).start()
    write_empty_database(Path(os.environ["PREFECT_HOME"]))
    import uvicorn

    uvicorn.run(
        "prefect.server.api.server:create_app",
        factory=True,
        host="127.0.0.1",
        port=port,
        log_level="error",
        lifespan="on",
    )


if __name__ == "__main__":
    main(int(sys.argv[1]))
