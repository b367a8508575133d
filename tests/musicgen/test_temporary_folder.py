"""Temporary folders: removed at the end, and after a kill by the next process, never while their process lives."""

import multiprocessing
import os
import signal
import tempfile
from pathlib import Path

import pytest

from musicgen.temporary_folder import remove_abandoned_folders, temporary_folder


@pytest.fixture(autouse=True)
def temp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for temporary files of the test's own."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def _make_and_die() -> None:
    with temporary_folder() as folder:
        (folder / "shard.tar").write_bytes(b"much")
        os.kill(os.getpid(), signal.SIGKILL)


def test_a_folder_is_removed_at_the_end_of_its_block(temp: Path):
    with temporary_folder() as folder:
        (folder / "part.parquet").touch()
        assert list(temp.iterdir()) == [folder]
    assert not list(temp.iterdir())


def test_what_a_killed_process_leaves_is_removed_and_nothing_else(temp: Path):
    for name in ("musicgen-1-abcdefgh", "musicgen-plan", "other"):  # the first bears the name, but not the lock
        (temp / name).mkdir()
    (temp / "musicgen-2-abcdefgh").symlink_to(temp / "other")
    process = multiprocessing.get_context("fork").Process(target=_make_and_die)
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    (left,) = temp.glob("musicgen-*/shard.tar")
    with temporary_folder() as in_use:
        assert remove_abandoned_folders() == 1
        assert in_use.exists()
    assert not left.parent.exists()
    assert len(list(temp.iterdir())) == 4


def test_folders_of_other_users_are_left_alone(temp: Path, monkeypatch: pytest.MonkeyPatch):
    process = multiprocessing.get_context("fork").Process(target=_make_and_die)
    process.start()
    process.join(60)
    monkeypatch.setattr(os, "getuid", lambda: os.geteuid() + 1)
    assert remove_abandoned_folders() == 0
