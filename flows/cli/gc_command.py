"""`musicgen gc`: deletes removed clips for good, and what killed processes have left."""

import json
import sys
from collections import Counter
from typing import TYPE_CHECKING, Annotated

import typer

import musicgen.cleanup
import musicgen.dataset
from flows.cli.options import OK, SOME_FAILED, AsJson, Dataset, Verbose, handle_errors
from flows.cli.progress_bar import ProgressBar
from flows.progress import format_count
from musicgen.errors import JobError

if TYPE_CHECKING:
    from musicgen.cleanup.collection import CollectionReport

_PRINTED = 20  # paths of a kind


def gc(
    dataset: Dataset,
    delete: Annotated[bool, typer.Option("--delete", help="Delete; without it gc only lists.")] = False,
    purge_prompt: Annotated[
        bool,
        typer.Option(
            "--purge-prompt",
            help="With --delete: also blank out removed clips' rows in the runs' manifests, which hold their prompts.",
        ),
    ] = False,
    release: Annotated[
        bool, typer.Option("--release", help="Let runs begin again after a gc that was killed while it deleted.")
    ] = False,
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """List, or with --delete delete: removed clips, and what killed runs have left and nothing needs.

    For example: musicgen gc out/try --delete
    """
    with handle_errors(verbose):
        if purge_prompt and not delete:
            raise JobError("--purge-prompt changes files; give --delete too")
        if release and delete:
            raise JobError("--release lets another gc's gate go; give it without --delete")
        opened = musicgen.dataset.open_dataset(dataset)
        if release:
            typer.echo(_release(dataset))
            raise typer.Exit(OK)
        with ProgressBar() as bar, bar.stage("looking for what nothing needs"):
            if delete:
                report = musicgen.cleanup.collect_garbage(
                    opened, purge_prompt, lambda label, done, total: bar.count(label)(done, total)
                )
            else:
                report = musicgen.cleanup.find_garbage(opened)
        if as_json:
            typer.echo(json.dumps({"dataset": dataset, **_to_json(report)}, indent=1, ensure_ascii=False))
        else:
            typer.echo("\n".join(_describe(report, dataset)))
            for line in (*report.notes, *(f"{path}: {reason}" for path, reason in report.failed)):
                print(line, file=sys.stderr)
        raise typer.Exit(SOME_FAILED if report.failed else OK)


def _release(uri: str) -> str:
    """Release the gate that stands, and say whose it was."""
    store = musicgen.dataset.open_dataset(uri).store
    if (gate := musicgen.dataset.find_gate(store)) is None:
        return f"Neither gc nor repair is at work in {uri}; nothing to release."
    musicgen.dataset.release_gate(store, gate)
    return f"Released the dataset from the {gate.command} of {gate}."


def _to_json(report: "CollectionReport") -> dict[str, object]:
    survey = report.survey
    leftovers = [
        {"kind": leftover.kind, "path": leftover.path, "bytes": leftover.size} for leftover in survey.leftovers
    ]
    return {
        "deleted": report.deleted,
        "clips": report.clips,
        "rows": report.rows,
        "purged_rows": report.purged,
        "leftovers": leftovers,
        "kept": survey.kept,
        "foreign": survey.foreign,
        "unfinished_runs": list(report.unfinished),
        "failed": [{"path": path, "reason": reason} for path, reason in report.failed],
        "notes": list(report.notes),
    }


def _describe(report: "CollectionReport", dataset: str) -> list[str]:
    """Return in lines what was deleted, or would be."""
    lines = []
    clips = format_count(report.clips, "removed clip")
    if report.deleted:
        lines.append(f"{clips} deleted, {format_count(report.rows, 'row')} taken out of the index")
    elif report.clips:
        lines.append(f"{clips} would be deleted; until then `musicgen remove --undo` brings them back")
    if report.purged:
        lines.append(f"{format_count(report.purged, 'row')} of manifests and failures blanked out")
    verb = "deleted" if report.deleted else "would be deleted"
    survey = report.survey
    kinds = Counter(leftover.kind for leftover in survey.leftovers)
    for kind, count in kinds.items():
        paths = [leftover.path for leftover in survey.leftovers if leftover.kind == kind]
        size = sum(leftover.size for leftover in survey.leftovers if leftover.kind == kind)
        lines.append(f"{kind}: {format_count(count, 'object')}, {size:,} bytes {verb}")
        lines += _list_paths(paths)
    if survey.kept:
        lines.append(f"kept, because a later run may use the name: {format_count(len(survey.kept), 'object')}")
        lines += _list_paths(survey.kept)
    if survey.foreign:
        lines.append(f"not ours, and left alone: {format_count(len(survey.foreign), 'object')}")
        lines += _list_paths(survey.foreign)
    if report.unfinished:
        lines.append(f"--delete has to wait until these are finished: {', '.join(report.unfinished)}")
    if not report.deleted and (report.clips or survey.leftovers):
        lines.append(f"`musicgen gc {dataset} --delete` deletes this.")
    return lines or [f"{dataset}: nothing to delete."]


def _list_paths(paths: list[str]) -> list[str]:
    shown = [f"  {path}" for path in paths[:_PRINTED]]
    return shown + ([f"  ... and {len(paths) - _PRINTED:,} more (--json lists them)"] if len(paths) > _PRINTED else [])
