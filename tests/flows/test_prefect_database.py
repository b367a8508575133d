"""The database that temporary Prefect servers copy. That a server starts with it is seen by every test that has one."""

import os
import sqlite3
from collections.abc import Callable
from contextlib import closing
from importlib.metadata import version
from pathlib import Path

import pytest

from flows import prefect_database
from flows.prefect_database import write_empty_database


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Writes a database into a PREFECT_HOME of this name; a stand-in for the migrations, which take long, names it."""

    async def migrate() -> None:
        with closing(sqlite3.connect(Path(os.environ["PREFECT_HOME"]) / "prefect.db")) as database:
            database.execute("PRAGMA journal_mode=WAL")
            database.execute(f"CREATE TABLE made_in_{Path(os.environ['PREFECT_HOME']).name} (id)")
            database.commit()

    def write_into(name: str) -> Path:
        home = tmp_path / name
        home.mkdir(exist_ok=True)
        monkeypatch.setenv("PREFECT_HOME", str(home))
        write_empty_database(home)
        return home / "prefect.db"

    monkeypatch.setattr(prefect_database, "_migrate", migrate)
    monkeypatch.setenv("MUSICGEN_CACHE", str(tmp_path / "cache"))
    return write_into


def read_tables(database: Path) -> list[str]:
    """The names of its tables."""
    with closing(sqlite3.connect(database)) as connection:
        return [name for (name,) in connection.execute("SELECT name FROM sqlite_master")]


def test_it_is_made_once_for_a_release_and_copied(write: Callable[[str], Path], tmp_path: Path) -> None:
    assert [read_tables(write(name)) for name in ("first", "second")] == [["made_in_first"], ["made_in_first"]]
    assert [path.name for path in tmp_path.glob("cache/*/*")] == [f"prefect-{version('prefect')}.db"]


def test_without_a_cache_the_server_makes_its_own(
    write: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MUSICGEN_CACHE", "/proc/nowhere")
    monkeypatch.setattr("tempfile.tempdir", "/proc/nowhere")
    assert not write("first").exists()


def test_a_database_that_is_there_stays(write: Callable[[str], Path], tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "prefect.db").write_bytes(b"mine")
    assert write("mine").read_bytes() == b"mine"
