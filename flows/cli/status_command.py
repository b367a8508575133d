"""`musicgen status`: shows how far each run of a dataset is."""

import json

import typer

from flows.cli.options import AsJson, Dataset, Verbose, handle_errors


def status(dataset: Dataset, as_json: AsJson = False, verbose: Verbose = False) -> None:
    """Show the rows planned, made, failed and missing, per run."""
    with handle_errors(verbose):
        from musicgen.dataset import open_dataset
        from musicgen.dataset.status import run_statuses

        runs = run_statuses(open_dataset(dataset))
        if as_json:
            typer.echo(json.dumps({"dataset": dataset, "runs": [run.to_json() for run in runs]}, indent=1))
            return
        if not runs:
            typer.echo(f"{dataset} has no runs.")
            return
        width = max(3, *(len(run.run) for run in runs))
        typer.echo(
            f"{'run':<{width}} {'planned':>10} {'made':>10} {'failed':>8} {'missing':>10} {'invalid':>8}  shards"
        )
        for run in runs:
            counts = f"{run.planned:>10} {run.made:>10} {run.failed:>8} {run.missing:>10} {run.invalid:>8}"
            typer.echo(
                f"{run.run:<{width}} {counts}  {run.committed}/{run.shards}{' closed' if run.superseded else ''}"
            )
