"""`musicgen listen` as a user types it."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from flows.cli.main import app
from flows.next_commands import describe_page_opener
from flows.own_command import own_command
from musicgen.storage import open_store
from tests.musicgen.dataset.conftest import Maker

run = CliRunner().invoke


@pytest.fixture
def dataset(tmp_path: Path) -> Maker:
    make = Maker(open_store(str(tmp_path / "my music")))
    make.shard()
    return make


def test_it_says_what_to_open(dataset: Maker, tmp_path: Path) -> None:
    done = run(app, ["listen", dataset.store.uri, "--clips", "2"])
    assert done.exit_code == 0, done.output
    assert done.stdout.startswith("2 clips of 3 on the page; listen in a browser: ")
    assert done.stdout.endswith(f"{describe_page_opener(f'{tmp_path}/my music/listen.html')}\n")
    assert (tmp_path / "my music" / "listen.html").is_file()
    assert run(app, ["verify", dataset.store.uri, "--deep"]).exit_code == 0


def test_damage_has_the_exit_code_of_verify(dataset: Maker) -> None:
    dataset.store.delete(next(info.path for info in dataset.store.list("audio")))
    done = run(app, ["listen", dataset.store.uri])
    assert done.exit_code == 4
    assert f"could not be read: 1 clip; `{own_command('verify', dataset.store.uri)}` names each" in done.stderr


def test_mistakes_are_one_line(dataset: Maker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def told(*args: str) -> str:
        done = run(app, ["listen", *args])
        assert done.exit_code == 2, done.output
        assert done.stderr.startswith("musicgen: ")
        assert done.stderr.count("\n") == 1
        return done.stderr

    assert "is not a dataset" in told(str(tmp_path))
    assert "--clips 0 is too few" in told(dataset.store.uri, "--clips", "0")
    monkeypatch.setattr("musicgen.dataset.listen.find_spec", lambda name: None)
    assert "pip install '.[listen]'" in told(dataset.store.uri)
    assert not (tmp_path / "my music" / "listen.html").exists()
