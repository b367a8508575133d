"""`musicgen verify`: the index against the audio."""

import json
from typing import Annotated

import typer

from flows.cli.options import OK, UNSOUND, AsJson, Dataset, Verbose, outcome

_SHOWN = 100


def verify(
    dataset: Dataset,
    deep: Annotated[
        bool, typer.Option("--deep", help="Decode the audio too: duration, rate, channels, finite samples.")
    ] = False,
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """Check that every object of the index is there and is what the index says."""
    with outcome(verbose):
        from musicgen.dataset import open as open_dataset
        from musicgen.dataset.verify import verify as verify_dataset

        report = verify_dataset(open_dataset(dataset), deep=deep)
        if as_json:
            typer.echo(json.dumps(report.to_json(), indent=1, ensure_ascii=False))
        else:
            for fault in report.faults[:_SHOWN]:
                typer.echo(str(fault))
            if report.fault_count > _SHOWN:
                typer.echo(f"... and {report.fault_count - _SHOWN} more (--json names them)")
            found = "sound" if report.sound else f"NOT sound: {report.fault_count} faults"
            size = f"{report.rows} rows, {report.audio_s:.1f} s of audio in {report.parts} parts, {report.failed} failed rows"
            typer.echo(f"{dataset}: {found}; {size}")
            if report.orphans:
                typer.echo(
                    f"{report.orphans} audio objects belong to no row (left by interrupted attempts); they do no harm"
                )
        raise typer.Exit(OK if report.sound else UNSOUND)
