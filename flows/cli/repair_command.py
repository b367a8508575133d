"""`musicgen repair`: makes again what a deep verification of a dataset names."""

import json
from functools import partial
from typing import Annotated

import typer

import musicgen.repair
from flows.cli.options import OK, UNSOUND, AsJson, Dataset, Verbose, handle_errors
from flows.cli.progress_bar import ProgressBar
from flows.progress import format_count


def repair(
    dataset: Dataset,
    other_bits: Annotated[
        bool,
        typer.Option("--other-bits", help="Also clips whose audio gets another sha256; the old one is recorded."),
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and change nothing.")] = False,
    model: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Where the checkpoint is, if it was a folder or bucket: plans name neither."),
    ] = None,
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """Make again what `musicgen verify --deep` names: audio, index parts, plans, failures, card.

    For example: musicgen repair out/try --dry-run
    """
    with handle_errors(verbose):
        with ProgressBar() as bar, bar.stage("verifying"):
            opened, first = musicgen.repair.open_repairable(dataset, dry_run)
            report = musicgen.repair.repair_dataset(
                opened,
                other_bits,
                dry_run,
                bar.count("rows checked"),
                bar.count("clips made again"),
                partial(musicgen.repair.load_run_engine, name=model),
                partial(musicgen.repair.find_run_checkpoint, name=model),
            )
        if first is not None:
            report.mendings.insert(0, first)
        if as_json:
            typer.echo(json.dumps(report.to_json(), indent=1, ensure_ascii=False))
        else:
            for mending in report.mendings:
                typer.echo(str(mending))
            typer.echo(f"{dataset}: {_summarize(len(report.mendings), len(report.failed), dry_run)}")
        raise typer.Exit(OK if report.is_good else UNSOUND)


def _summarize(objects: int, failed: int, dry_run: bool) -> str:
    if not objects:
        return "OK; nothing to repair"
    if dry_run:
        return f"{format_count(objects, 'object')} to repair; nothing was changed"
    if failed:
        return f"{objects - failed} of {format_count(objects, 'object')} made good; {failed} not"
    return f"{format_count(objects, 'object')} made good"
