"""The commands that a run prints at its end work as they are printed, on the store in use."""

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import duckdb
import pytest

from flows import own_command
from flows.next_commands import describe_page_opener, list_next_commands
from musicgen.dataset.card import publish_card
from musicgen.dataset.reader import read_dataset
from musicgen.storage import open_store
from tests.musicgen.dataset.conftest import Maker, shard_of

BIN = Path(sys.executable).parent


def next_commands(dataset: str, made: int = 3) -> dict[str, str]:
    """The printed commands by the name before them."""
    return dict(line.split(maxsplit=1) for line in list_next_commands(dataset, made))


@pytest.fixture
def bare_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """A shell that finds no program of this environment by its name."""
    monkeypatch.setenv("PATH", "/usr/bin:/bin")


def run_in_shell(command: str, folder: Path) -> str:
    """What the command prints."""
    done = subprocess.run(["sh", "-c", command], cwd=folder, env=dict(os.environ), capture_output=True, text=True)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def run_query(dataset: str, capsys: pytest.CaptureFixture[str]) -> str:
    """Run the printed query as a shell would split it, but for the process."""
    _, option, code = shlex.split(next_commands(dataset)["query"])
    assert option == "-c"
    exec(code, {})
    if "s3" in duckdb.list_filesystems():  # it stays for the whole process, and is taken only once
        duckdb.unregister_filesystem("s3")
    return capsys.readouterr().out


def test_the_query_reads_a_bucket_at_an_endpoint(s3, capsys: pytest.CaptureFixture[str]) -> None:
    """DuckDB's own client signs a request to AWS there, whatever AWS_ENDPOINT_URL says."""
    Maker(open_store(s3.uri)).shard()
    printed = run_query(s3.uri, capsys)
    assert all(key[:6] in printed for key in shard_of("r1-1", 0).keys)


@pytest.mark.parametrize("name", ["plain", 'it\'s [2026] "new" *', "ümläut #1 %20"])
def test_the_query_reads_a_folder_of_any_name(tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    Maker(open_store(str(tmp_path / name))).shard()
    printed = run_query(str(tmp_path / name), capsys)
    assert all(key[:6] in printed for key in shard_of("r1-1", 0).keys)


def test_every_line_runs_where_it_is_printed(bare_path: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a shell without an activated environment, as after `make demo`."""
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    store = open_store(str(tmp_path / "my songs"))
    Maker(store).shard()
    publish_card(read_dataset(store))
    commands = next_commands(str(tmp_path / "my songs"))
    assert list(commands) == ["dataset", "listen", "load", "query", "check"]
    assert "prompt" in run_in_shell(commands["load"], tmp_path)
    assert "prompt" in run_in_shell(commands["query"], tmp_path)
    assert "OK;" in run_in_shell(commands["check"], tmp_path)
    assert "on the page" in run_in_shell(commands["listen"], tmp_path)
    assert (tmp_path / "my songs/listen.html").exists()


@pytest.mark.slow
def test_the_lines_for_a_bucket_run_with_its_environment(s3, bare_path: None, tmp_path: Path) -> None:
    Maker(open_store(s3.uri)).shard()
    commands = next_commands(s3.uri)
    assert "open_dataset" in commands["load"]  # `datasets` takes no bucket
    assert "prompt" in run_in_shell(commands["load"], tmp_path)
    assert "on the page" in run_in_shell(commands["listen"], tmp_path)
    assert list(tmp_path.glob("*-page/listen.html"))


def test_the_command_in_use_is_named_by_its_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{BIN}:/usr/bin:/bin")
    monkeypatch.setattr(sys, "argv", [str(BIN / "musicgen"), "run"])
    assert own_command.own_command("verify", "out/my songs") == "musicgen verify 'out/my songs'"
    assert own_command.own_python("1") == "python -c 1"
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    monkeypatch.chdir(BIN.parent.parent)
    called = f"{BIN.relative_to(BIN.parent.parent)}/musicgen"
    monkeypatch.setattr(sys, "argv", [called, "run"])
    assert own_command.own_command("models") == f"{called} models"
    monkeypatch.setattr(sys, "argv", ["/elsewhere/prefect"])
    assert own_command.own_command("models") == f"{BIN / 'musicgen'} models"
    monkeypatch.setattr(sys, "executable", str(shutil.copy(sys.executable, tmp_path / "python3")))
    assert own_command.own_command("models") == f"{tmp_path / 'python3'} -m musicgen models"
    (tmp_path / "musicgen").touch(0o755)
    monkeypatch.setattr(sys, "executable", str(BIN / "python"))
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")  # another program of this name
    assert own_command.own_command("models") == f"{BIN / 'musicgen'} models"


def test_only_what_can_work_is_printed() -> None:
    """`load_dataset` takes no bucket, no folder that looks like a pattern, and no dataset without clips."""
    load: Callable[..., str] = lambda dataset, made=1: next_commands(dataset, made).get("load", "")  # noqa: E731
    assert "load_dataset" in load("out/x")
    assert "open_dataset" in load("s3://b/x")
    assert "open_dataset" in load("out/x [2]")
    assert load("out/x", 0) == ""
    assert "listen" not in next_commands("out/x", 0)


def test_a_page_is_opened_by_a_command_only_where_there_is_a_screen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    monkeypatch.setattr(sys, "platform", "linux")
    assert describe_page_opener("out/x/listen.html") == "out/x/listen.html"
    monkeypatch.setattr(sys, "platform", "darwin")
    assert describe_page_opener("my page.html") == "open 'my page.html'"
