"""`musicgen verify`: checks the index of a dataset against its audio."""

import json
from typing import Annotated

import typer

from flows.cli.options import OK, UNSOUND, AsJson, Dataset, Verbose, handle_errors
from flows.cli.progress_bar import ProgressBar

_FAULTS_PRINTED = 100


def verify(
    dataset: Dataset,
    deep: Annotated[
        bool, typer.Option("--deep", help="Decode the audio too: duration, rate, channels, finite samples.")
    ] = False,
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """Check that every object of the index is there and is what the index says."""
    with handle_errors(verbose):
        from musicgen.dataset import open_dataset
        from musicgen.dataset.verification import verify_dataset

        with ProgressBar() as bar:
            report = verify_dataset(open_dataset(dataset), deep=deep, progress=bar.count("rows checked"))
        if as_json:
            typer.echo(json.dumps(report.to_json(), indent=1, ensure_ascii=False))
        else:
            for fault in report.faults[:_FAULTS_PRINTED]:
                typer.echo(str(fault))
            if report.fault_count > _FAULTS_PRINTED:
                typer.echo(f"... and {report.fault_count - _FAULTS_PRINTED} more (--json names them)")
            verdict = "sound" if report.sound else f"NOT sound: {report.fault_count} faults"
            size = f"{report.rows} rows, {report.audio_s:.1f} s of audio in {report.parts} parts"
            typer.echo(f"{dataset}: {verdict}; {size}, {report.failed} failed rows")
            if report.orphans:
                typer.echo(
                    f"{report.orphans} audio objects belong to no row (left by interrupted attempts); they do no harm"
                )
        raise typer.Exit(OK if report.sound else UNSOUND)
