"""The command line `musicgen`. One module per command; each imports what is heavy only when it runs."""

import atexit
import os
import sys
import threading
from contextlib import suppress
from typing import Annotated

import typer

from flows.cli.codes_command import decode, encode
from flows.cli.convert_command import convert
from flows.cli.deploy_command import deploy
from flows.cli.evaluate_command import evaluate
from flows.cli.gc_command import gc
from flows.cli.listen_command import listen
from flows.cli.models_command import models
from flows.cli.options import INTERRUPTED
from flows.cli.pause_command import pause, resume
from flows.cli.plan_command import plan
from flows.cli.remove_command import remove
from flows.cli.repair_command import repair
from flows.cli.run_command import run
from flows.cli.settings_command import settings
from flows.cli.status_command import status
from flows.cli.train_command import train
from flows.cli.verify_command import verify
from musicgen.version import package_version

app = typer.Typer(
    name="musicgen",
    help="Datasets of music with MusicGen: a manifest of prompts becomes audio and an index, in a folder or a bucket.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("run")(run)
app.command("plan")(plan)
app.command("status")(status)
app.command("verify")(verify)
app.command("repair")(repair)
app.command("listen")(listen)
app.command("deploy")(deploy)
app.command("pause")(pause)
app.command("resume")(resume)
app.command("remove")(remove)
app.command("gc")(gc)
app.command("models")(models)
app.command("settings")(settings)
app.command("convert")(convert)
app.command("encode")(encode)
app.command("decode")(decode)
app.command("train")(train)
app.command("evaluate")(evaluate)


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"musicgen {package_version()}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and end."),
    ] = False,
) -> None:
    """Take the options that stand before a command."""


def main() -> None:
    """Entry point.

    If a library's thread runs C++ code while the interpreter is shut down, it may abort the process and change the exit
    code, which scripts rely on. So this runs what is due at exit and ends the process without shutting the interpreter
    down.
    """
    code: int | str | None = 0
    try:
        app()
    except SystemExit as done:
        code = done.code
    if code is not None and not isinstance(code, int):
        print(code, file=sys.stderr)
        code = 1
    if code != INTERRUPTED:  # then threads are left behind: one may be waiting for a store for an hour
        threading._shutdown()  # type: ignore[attr-defined]  # threads that are to be waited for, and their own hooks
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):  # a closed pipe
            stream.flush()
    os._exit(code or 0)


if __name__ == "__main__":
    main()
