"""`musicgen remove`: takes clips out of a dataset."""

import json
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

import musicgen.dataset
from flows.cli.options import OK, SOME_FAILED, AsJson, Dataset, DryRun, Verbose, handle_errors
from flows.cli.progress_bar import ProgressBar
from flows.progress import format_count
from musicgen.errors import JobError

if TYPE_CHECKING:
    from musicgen.dataset.removal import RemovalReport


def remove(
    dataset: Dataset,
    keys: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEYS]...", help="Clips by key or by id; an id stands for all samples of its row."),
    ] = None,
    where: Annotated[
        str | None,
        typer.Option(
            "--where",
            metavar="CONDITION",
            help="Clips that an SQL condition on the index holds for, such as \"prompt ilike '%voice of%'\".",
        ),
    ] = None,
    undo: Annotated[
        bool, typer.Option("--undo", help="Bring removed clips back; possible until `musicgen gc --delete`.")
    ] = False,
    dry_run: DryRun = False,
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """Leave clips out of the dataset from now on; `musicgen gc --delete` deletes their audio and rows.

    For example: musicgen remove out/try --where "prompt ilike '%voice of%'" --dry-run
    """
    with handle_errors(verbose):
        if not keys and where is None:
            raise JobError("nothing says which clips; give keys, ids, or a condition with --where")
        opened = musicgen.dataset.open_dataset(dataset)
        with ProgressBar() as bar:
            with bar.stage("looking for the clips in the index"):
                report = musicgen.dataset.remove_clips(opened, keys or (), where, undo, dry_run)
            if report.changed and not dry_run:
                with bar.stage("writing the dataset's card"):
                    report.notes = musicgen.dataset.publish_card(opened).notes
        if as_json:
            typer.echo(json.dumps({"dataset": dataset, **asdict(report)}, indent=1, ensure_ascii=False))
        else:
            typer.echo(_describe(report, dataset))
            for line in (*report.notes, *_describe_failed(report)):
                print(line, file=sys.stderr)
        raise typer.Exit(SOME_FAILED if report.failed else OK)


def _describe(report: "RemovalReport", dataset: str) -> str:
    """Return in words what was done, or with --dry-run would be."""
    count = len(report.changed)
    clips = format_count(count, "clip")
    verb = "would be" if report.dry_run else "is" if count == 1 else "are"
    text = f"{clips} {verb} {'back' if report.undo else 'removed'}"
    if report.unchanged:
        text += f"; {report.unchanged:,} {'not removed' if report.undo else 'removed'} before"
    if count and not (report.undo or report.dry_run):
        them = "it" if count == 1 else "them"
        text += f". `musicgen gc {dataset} --delete` deletes audio and rows; until then --undo brings {them} back"
    return f"{text}."


def _describe_failed(report: "RemovalReport") -> list[str]:
    lines = [f"{name}: no clip has this key or id (any more)" for name in report.unknown]
    return lines + [f"{key}: `musicgen gc` has deleted it, so it cannot be brought back" for key in report.too_late]
