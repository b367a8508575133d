"""A temporary Prefect server that cannot start names the reason."""

import os
from pathlib import Path

import pytest

from flows.prefect_server import PrefectServer, _last_error
from musicgen.errors import MusicGenError


def test_a_damaged_database_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "prefect.db").write_bytes(os.urandom(8192))
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path))
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    server = PrefectServer()
    try:
        with pytest.raises(MusicGenError, match=r"did not start: .*DatabaseError.*not a database"), server.connected():
            pass
    finally:
        server.stop()


def test_the_last_exception_of_a_log_is_the_reason() -> None:
    assert _last_error("Traceback:\n  x = 1\nsqlite3.Error: first\nalembic.CommandError: no revision\nExiting.\n") == (
        "alembic.CommandError: no revision"
    )
    assert _last_error("some words\nand more\n\n") == "and more"
    assert _last_error("") == ""
