"""`musicgen listen`: a page with a player and a spectrogram for each clip."""

import shlex
import sys
from typing import Annotated

import typer

from flows.cli.options import OK, UNSOUND, Dataset, Verbose, handle_errors
from musicgen.errors import JobError


def listen(
    dataset: Dataset,
    clips: Annotated[int, typer.Option("--clips", metavar="N", help="At most so many, from the first on.")] = 100,
    output: Annotated[
        str | None,
        typer.Option("--output", metavar="FOLDER", help="Where to write the page; by default the dataset's folder."),
    ] = None,
    verbose: Verbose = False,
) -> None:
    """Write listen.html: the clips with their prompts, players and spectrograms, to open in a browser."""
    with handle_errors(verbose):
        from musicgen.dataset import open_dataset
        from musicgen.dataset.listen import write_page

        if clips < 1:
            raise JobError(f"--clips {clips} is too few; write 1 or more")
        page = write_page(open_dataset(dataset), output, clips)
        total = "" if page.clips == page.dataset_clips else f" of {page.dataset_clips:,}"
        opener = "open" if sys.platform == "darwin" else "xdg-open"
        typer.echo(
            f"{page.clips:,}{total} clips with spectrograms; listen in a browser: {opener} {shlex.quote(page.path)}"
        )
        if page.faults:
            print(f"{page.faults} clips could not be read; `musicgen verify {dataset}` names each", file=sys.stderr)
        raise typer.Exit(UNSOUND if page.faults else OK)
