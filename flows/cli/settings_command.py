"""`musicgen settings`: what a job file may hold."""

import json
from dataclasses import asdict
from textwrap import fill
from typing import Annotated

import typer

from flows.cli.options import AsJson, Verbose, handle_errors

_WIDTH = 100


def settings(
    section: Annotated[
        str | None, typer.Argument(metavar="SECTION", help="manifest, model, generation, audio, cluster or output.")
    ] = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="Write docs/settings.md to stdout.")] = False,
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """List the settings of a job file with their values, defaults and meaning.

    For example: musicgen settings generation
    """
    with handle_errors(verbose):
        from musicgen.job_reference import format_markdown, list_settings

        sections = list_settings(section)
        if as_json:
            typer.echo(json.dumps([asdict(known) for known in sections], indent=1, ensure_ascii=False))
            return
        if markdown:
            typer.echo(format_markdown(sections), nl=False)
            return
        for known in sections:
            typer.echo(f"{known.name}: {known.description}\n")
            for setting in known.settings:
                default = "(required)" if setting.default == "required" else f"= {setting.default}"
                typer.echo(f"  {setting.key} {default}   ({setting.values.replace('`', '')})")
                typer.echo(fill(setting.description, _WIDTH, initial_indent="      ", subsequent_indent="      "))
            typer.echo("")
