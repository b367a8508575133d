"""`musicgen verify`: checks a dataset: its index against its audio, and with --deep every byte of it."""

import json
from typing import TYPE_CHECKING, Annotated

import typer

import musicgen.dataset
from flows.cli.options import OK, UNSOUND, AsJson, Dataset, Verbose, handle_errors
from flows.cli.progress_bar import ProgressBar
from flows.own_command import own_command
from flows.progress import format_audio_length, format_count
from musicgen.errors import JobError

if TYPE_CHECKING:
    from musicgen.dataset.verification_report import VerificationReport

_FAULTS_PRINTED = 100


def verify(
    dataset: Dataset,
    deep: Annotated[
        bool, typer.Option("--deep", help="Read every byte: decode the audio, check every file by its own checksum.")
    ] = False,
    quick: Annotated[
        bool, typer.Option("--quick", help="Names and sizes from listings only; no audio is read.")
    ] = False,
    sample: Annotated[
        int | None, typer.Option("--sample", metavar="N", min=1, help="As --quick, and read N clips drawn at random.")
    ] = None,
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """Check that every object of the index is there and is what the index says; `musicgen repair` mends what is not.

    For example: musicgen verify out/try --deep
    """
    with handle_errors(verbose):
        if quick and (deep or sample is not None):
            raise JobError("--quick reads no audio; leave out --deep and --sample, or --quick")
        with ProgressBar() as bar, bar.stage("verifying"):
            report = _verify(dataset, deep, quick, sample, bar)
        if as_json:
            typer.echo(json.dumps(report.to_json(), indent=1, ensure_ascii=False))
        else:
            print_verification(dataset, report)
        raise typer.Exit(OK if report.sound else UNSOUND)


def _verify(uri: str, deep: bool, quick: bool, sample: int | None, bar: ProgressBar) -> "VerificationReport":
    try:
        opened = musicgen.dataset.open_dataset(uri)
    except musicgen.dataset.InfoDamaged as error:
        report = musicgen.dataset.VerificationReport(uri, deep, quick)
        report.add(musicgen.dataset.Fault("info", "dataset.json", f"it cannot be read, so nothing else was: {error}"))
        return report
    return musicgen.dataset.verify_dataset(opened, deep, bar.count("rows checked"), quick, sample)


def print_verification(dataset: str, report: "VerificationReport") -> None:
    """Print the faults and the counts of a verification."""
    for fault in report.faults[:_FAULTS_PRINTED]:
        typer.echo(str(fault))
    if report.fault_count > _FAULTS_PRINTED:
        typer.echo(f"... and {report.fault_count - _FAULTS_PRINTED} more (--json names them)")
    for note in report.notes:
        typer.echo(note)
    verdict = "OK" if report.sound else f"DAMAGED, {format_count(report.fault_count, 'fault')}"
    rows, parts = format_count(report.rows, "row"), format_count(report.parts, "part")
    size = f"{rows}, {format_audio_length(report.audio_s)} in {parts}"
    read = (
        ""
        if report.audio_checked == report.rows
        else f", the audio of {format_count(report.audio_checked, 'clip')} read"
    )
    typer.echo(f"{dataset}: {verdict}; {size}, {format_count(report.failed, 'failed row')}{read}")
    if not report.sound:
        typer.echo(f"To make again what can be: {own_command('repair', dataset)} (--dry-run says what it would do)")
    if report.orphans:
        orphans = format_count(report.orphans, "audio object")
        typer.echo(f"{orphans} of no row, left by interrupted attempts, which does no harm")
