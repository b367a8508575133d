"""`musicgen encode` and `musicgen decode`: a manifest of audio to a Parquet file of codes, and codes back to audio."""

import json
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

import typer

import musicgen.dataset
from flows.cli.options import OK, SOME_FAILED, AsJson, Verbose, handle_errors
from flows.progress import format_count
from musicgen.errors import JobError

if TYPE_CHECKING:
    from musicgen.codes import CodesSummary
    from musicgen.model.codec.codec import Codec

_FAILURES_PRINTED = 20
_PROGRESS_INTERVAL = 100  # files between two lines of progress

CodecModel = Annotated[
    str, typer.Option("--model", metavar="NAME", help="The checkpoint whose codec it is: a preset, hub name or folder.")
]
Device = Annotated[str, typer.Option("--device", metavar="NAME", help="auto, cpu, cuda or cuda:0.")]


def encode(
    manifest: Annotated[
        str, typer.Argument(metavar="MANIFEST", help="Parquet, JSONL, CSV or TSV (.gz) with a column of audio files.")
    ],
    output: Annotated[str, typer.Argument(metavar="CODES.parquet", help="The file to write, here or in a bucket.")],
    column: Annotated[
        str, typer.Option("--column", metavar="NAME", help="The column that names the audio files.")
    ] = "audio",
    root: Annotated[
        list[str] | None,
        typer.Option("--root", metavar="FOLDER", help="Another folder that local files may be in; repeatable."),
    ] = None,
    model: CodecModel = "embedded",
    device: Device = "auto",
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """Turn audio files into the codec's codes, one row of a Parquet file each.

    For example: musicgen encode songs.csv codes.parquet --column file
    """
    with handle_errors(verbose):
        from musicgen.codes import encode_manifest

        codec = _load_codec(model, device)
        summary = encode_manifest(
            manifest, output, codec, column=column, roots=root or (), progress=_make_progress("encoded")
        )
        raise typer.Exit(_report_summary(summary, as_json))


def decode(
    codes: Annotated[
        str,
        typer.Argument(
            metavar="CODES", help="Parquet files of codes, or a dataset that was made with audio.codes: true."
        ),
    ],
    output: Annotated[str, typer.Argument(metavar="FOLDER", help="The folder or s3://bucket/prefix for the audio.")],
    audio_format: Annotated[str, typer.Option("--format", metavar="NAME", help="flac, wav, ogg or mp3.")] = "flac",
    model: CodecModel = "embedded",
    device: Device = "auto",
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """Turn codes back into audio files.

    For example: musicgen decode codes.parquet out/audio --format wav
    """
    with handle_errors(verbose):
        from musicgen.codes import decode_codes

        if audio_format not in ("flac", "wav", "ogg", "mp3"):
            raise JobError(f"--format {audio_format!r} is not known; write flac, wav, ogg or mp3")
        codec = _load_codec(model, device)
        progress = _make_progress("decoded")
        left_out = _list_removed(codes)
        summary = decode_codes(codes, output, codec, format=audio_format, left_out=left_out, progress=progress)
        raise typer.Exit(_report_summary(summary, as_json))


def _load_codec(name: str, device: str) -> "Codec":
    from musicgen.families.codec_loader import load_family_codec

    return load_family_codec(name, device)


def _list_removed(uri: str) -> frozenset[str]:
    """Return the keys of the clips that were removed from a dataset; none for what is no dataset."""
    from musicgen.storage import open_store

    store = open_store(uri)
    if not store.exists(musicgen.dataset.paths.INFO):
        return frozenset()
    return frozenset(musicgen.dataset.read_tombstones(store).hidden_keys())


def _make_progress(verb: str) -> Callable[[int], None]:
    """Return a callback that prints the number of files now and then."""

    def show_count(count: int) -> None:
        if count % _PROGRESS_INTERVAL == 0:
            print(f"{verb} {format_count(count, 'file')}", file=sys.stderr)

    return show_count


def _report_summary(summary: "CodesSummary", as_json: bool) -> int:
    """Print what was made and what failed; returns the exit code."""
    if as_json:
        values = {"made": summary.made, "failed": summary.failed, "output": summary.output}
        typer.echo(json.dumps(values, ensure_ascii=False))
    else:
        for source, reason in summary.failed[:_FAILURES_PRINTED]:
            print(f"{source}: {reason}", file=sys.stderr)
        if len(summary.failed) > _FAILURES_PRINTED:
            print(f"... and {len(summary.failed) - _FAILURES_PRINTED} more", file=sys.stderr)
        typer.echo(f"{summary.output}: {summary.made} made, {len(summary.failed)} failed")
    return SOME_FAILED if summary.failed else OK
