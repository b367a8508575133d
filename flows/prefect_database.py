"""The empty database of a Prefect server: made once for each release of Prefect, and copied from then on.

Prefect makes one by all migrations of its history, which takes two thirds of the processor time of a server's start.
"""

import asyncio
import os
import shutil
import sqlite3
import tempfile
from contextlib import closing, suppress
from importlib.metadata import version
from pathlib import Path

from musicgen.model.decoder.build import find_private_folder


def write_empty_database(home: Path) -> None:
    """Write `prefect.db` into `home`, which is this process's PREFECT_HOME, unless there is one.

    It is kept where only this user can write. Without such a folder nothing is written, and the server makes its
    own as it starts.
    """
    database, folder = home / "prefect.db", find_private_folder()
    if database.exists() or folder is None:
        return
    kept = folder / f"prefect-{version('prefect')}.db"
    with suppress(OSError, sqlite3.Error):
        if kept.exists():
            partial = home / "prefect.db.part"
            shutil.copyfile(kept, partial)
            os.replace(partial, database)  # never half of it, as on a full disk
            return
        asyncio.run(_migrate())
        _keep_copy(database, kept)


async def _migrate() -> None:
    from prefect.server.database import provide_database_interface

    interface = provide_database_interface()
    await interface.create_db()
    await (await interface.engine()).dispose()  # the server's event loop is another one


def _keep_copy(database: Path, kept: Path) -> None:
    with tempfile.TemporaryDirectory(prefix=kept.name, dir=kept.parent) as folder:
        copy = Path(folder) / kept.name
        with closing(sqlite3.connect(database)) as source, closing(sqlite3.connect(copy)) as target:
            source.backup(target)
        os.replace(copy, kept)
