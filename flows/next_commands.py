"""The commands that a run prints at its end, to go on with: each works as it stands, where it is printed."""

import os
import shlex
import shutil
import sys
from importlib.util import find_spec
from pathlib import PurePath

from flows.own_command import own_command, own_python

_QUERY = "select key, prompt, duration_s from read_parquet('{pattern}') limit 5"


def list_next_commands(dataset: str, made: int) -> list[str]:
    """List commands to listen to, load, query and verify a dataset, each with its name before it.

    `made` is the number of its clips; without any there is nothing to hear or load.
    """
    dataset = dataset.rstrip("/")
    commands = {"dataset": dataset}
    if made:
        if find_spec("matplotlib") is not None:  # which the pictures of the page need
            commands["listen"] = _listen_command(dataset)
        commands["load"] = _load_command(dataset)
    commands["query"] = _query_command(dataset)
    commands["check"] = own_command("verify", dataset, "--deep")
    return [f"{name:<8} {command}" for name, command in commands.items()]


def describe_page_opener(page: str) -> str:
    """Return what to do with a page: a command that opens it, or just its path where no browser can be started."""
    if sys.platform == "darwin":
        return f"open {shlex.quote(page)}"
    has_screen = os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    return f"xdg-open {shlex.quote(page)}" if has_screen and shutil.which("xdg-open") else page


def _listen_command(dataset: str) -> str:
    """Return the command that writes the page; of a bucket it goes into a folder here."""
    if "://" not in dataset:
        return own_command("listen", dataset)
    return own_command("listen", dataset, "--output", f"{PurePath(dataset).name}-page")


def _load_command(dataset: str) -> str:
    """Return a line for `datasets`, or for our reader where that takes no bucket and no name like a pattern."""
    is_folder = "://" not in dataset and not set(dataset) & set("[]*?")
    if is_folder and find_spec("datasets") is not None:
        return own_python(f"import datasets; print(datasets.load_dataset({dataset!r}))")
    return own_python(f"from musicgen.dataset import open_dataset; print(open_dataset({dataset!r}).to_arrow())")


def _query_command(dataset: str) -> str:
    """Return a query with DuckDB's Python module, which is installed with this program.

    It finds a bucket through fsspec, which takes endpoint and credentials from the environment as we do; DuckDB's own
    client knows neither.
    """
    pattern = "".join(f"[{letter}]" if letter in "[*?" else letter for letter in dataset) + "/index/**/*.parquet"
    setup = "; duckdb.register_filesystem(fsspec.filesystem('s3'))" if dataset.startswith("s3://") else ""
    modules = "duckdb, fsspec" if setup else "duckdb"
    query = _QUERY.format(pattern=pattern.replace("'", "''"))
    return own_python(f"import {modules}{setup}; print(duckdb.sql({query!r}))")
