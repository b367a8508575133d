"""`musicgen pause` and `musicgen resume`: stop the runs of a dataset at their next commit, and let them go on."""

import json

import typer

import musicgen.dataset
from flows.cli.options import AsJson, Dataset, DryRun, Verbose, handle_errors
from flows.own_command import own_command


def pause(dataset: Dataset, dry_run: DryRun = False, as_json: AsJson = False, verbose: Verbose = False) -> None:
    """Stop the runs of a dataset at their next commit (exit 5), and let none begin until `musicgen resume`.

    For example: musicgen pause s3://bucket/datasets/first
    """
    with handle_errors(verbose):
        store = musicgen.dataset.open_dataset(dataset).store
        earlier = musicgen.dataset.read_pause(store) if dry_run else musicgen.dataset.put_pause(store)
        if as_json:
            typer.echo(
                json.dumps({"dataset": dataset, "paused": not dry_run or bool(earlier), "before": bool(earlier)})
            )
            return
        if earlier is not None:
            typer.echo(f"{dataset} is {earlier} already.")
        elif dry_run:
            typer.echo(f"{dataset} would be paused.")
        else:
            resuming = own_command("resume", dataset)
            typer.echo(f"{dataset} is paused: its runs stop at their next commit, and none begins until: {resuming}")


def resume(dataset: Dataset, dry_run: DryRun = False, as_json: AsJson = False, verbose: Verbose = False) -> None:
    """Take the pause of a dataset away; a run that it has stopped goes on when its job is run again.

    For example: musicgen resume s3://bucket/datasets/first
    """
    with handle_errors(verbose):
        store = musicgen.dataset.open_dataset(dataset).store
        ended = musicgen.dataset.read_pause(store) if dry_run else musicgen.dataset.end_pause(store)
        if as_json:
            typer.echo(json.dumps({"dataset": dataset, "paused": dry_run and bool(ended), "before": bool(ended)}))
        elif ended is None:
            typer.echo(f"{dataset} is not paused.")
        elif dry_run:
            typer.echo(f"{dataset} is {ended}; the pause would end.")
        else:
            typer.echo(f"{dataset} was {ended}; its runs can go on: run their jobs again.")
