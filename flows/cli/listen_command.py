"""`musicgen listen`: a page with a player and a spectrogram for each clip."""

import sys
from typing import Annotated

import typer

import musicgen.dataset
from flows.cli.options import OK, UNSOUND, Dataset, Verbose, handle_errors
from flows.next_commands import describe_page_opener
from flows.own_command import own_command
from flows.progress import format_count
from musicgen.errors import JobError


def listen(
    dataset: Dataset,
    clips: Annotated[
        int, typer.Option("--clips", metavar="N", help="Show at most N clips, those of the newest run first.")
    ] = 100,
    where: Annotated[
        str | None,
        typer.Option(
            "--where",
            metavar="CONDITION",
            help="Show only clips that an SQL condition on the index holds for, such as \"prompt ilike '%piano%'\".",
        ),
    ] = None,
    run: Annotated[
        str | None, typer.Option("--run", metavar="RUN", help="Show only clips of this run (see `musicgen status`).")
    ] = None,
    output: Annotated[
        str | None,
        typer.Option("--output", metavar="FOLDER", help="Where to write the page; by default the dataset's folder."),
    ] = None,
    verbose: Verbose = False,
) -> None:
    """Write listen.html: the clips with their prompts, players and spectrograms, to open in a browser.

    For example: musicgen listen out/try --clips 20 --where "prompt ilike '%piano%'"
    """
    with handle_errors(verbose):
        if clips < 1:
            raise JobError(f"--clips {clips} is too few; write 1 or more")
        opened = musicgen.dataset.open_dataset(dataset)
        if run is not None:
            try:
                opened = opened.run(run)
            except KeyError as error:
                raise JobError(str(error.args[0])) from None
        page = musicgen.dataset.write_page(opened, output, clips, where)
        shown = format_count(page.clips, "clip")
        total = "" if page.clips == page.dataset_clips else f" of {page.dataset_clips:,}"
        typer.echo(f"{shown}{total} on the page; listen in a browser: {describe_page_opener(page.path)}")
        if page.faults:
            damaged = format_count(page.faults, "clip")
            print(f"could not be read: {damaged}; `{own_command('verify', dataset)}` names each", file=sys.stderr)
        raise typer.Exit(UNSOUND if page.faults else OK)
