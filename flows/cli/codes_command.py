"""`musicgen encode` and `musicgen decode`: a manifest of audio to a Parquet file of codes, and codes back to audio."""

import json
import sys
from collections.abc import Callable
from typing import Annotated, Any

import typer

from flows.cli.options import OK, SOME_FAILED, AsJson, Verbose, handle_errors

_SHOWN = 20
_EVERY = 100  # files between two lines of progress

CodecOf = Annotated[
    str, typer.Option("--model", metavar="NAME", help="The checkpoint whose codec it is: a preset, hub name or folder.")
]
Device = Annotated[str, typer.Option("--device", metavar="NAME", help="auto, cpu, cuda or cuda:0.")]


def encode(
    manifest: Annotated[
        str, typer.Argument(metavar="MANIFEST", help="Parquet, JSONL(.gz) or CSV(.gz) with a column of audio files.")
    ],
    output: Annotated[str, typer.Argument(metavar="CODES.parquet", help="The file to write, here or in a bucket.")],
    column: Annotated[
        str, typer.Option("--column", metavar="NAME", help="The column that names the audio files.")
    ] = "audio",
    root: Annotated[
        list[str] | None, typer.Option("--root", metavar="FOLDER", help="Local files may lie here too; repeatable.")
    ] = None,
    model: CodecOf = "embedded",
    device: Device = "auto",
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """Turn audio files into the codec's codes, one row of a Parquet file each."""
    with handle_errors(verbose):
        from musicgen.codes import encode_manifest
        from musicgen.model import load_codec

        codec = load_codec(model, device)
        raise typer.Exit(
            _tell(
                encode_manifest(
                    manifest, output, codec, column=column, roots=root or (), progress=_progress("encoded")
                ),
                as_json,
            )
        )


def decode(
    codes: Annotated[
        str,
        typer.Argument(
            metavar="CODES", help="Parquet files of codes, or the index of a dataset with audio.codes: true."
        ),
    ],
    output: Annotated[str, typer.Argument(metavar="FOLDER", help="The folder or s3://bucket/prefix for the audio.")],
    audio_format: Annotated[str, typer.Option("--format", metavar="NAME", help="flac, wav, ogg or mp3.")] = "flac",
    model: CodecOf = "embedded",
    device: Device = "auto",
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """Turn codes back into audio files."""
    with handle_errors(verbose):
        from musicgen.codes import decode_codes
        from musicgen.errors import JobError
        from musicgen.model import load_codec

        if audio_format not in ("flac", "wav", "ogg", "mp3"):
            raise JobError(f"--format {audio_format!r} is not known; write flac, wav, ogg or mp3")
        codec = load_codec(model, device)
        raise typer.Exit(
            _tell(decode_codes(codes, output, codec, format=audio_format, progress=_progress("decoded")), as_json)
        )


def _progress(verb: str) -> Callable[[int], None]:
    def show(done: int) -> None:
        if done % _EVERY == 0:
            print(f"{done} files {verb}", file=sys.stderr)

    return show


def _tell(done: Any, as_json: bool) -> int:
    if as_json:
        typer.echo(json.dumps({"made": done.made, "failed": done.failed, "output": done.output}, ensure_ascii=False))
    else:
        for source, reason in done.failed[:_SHOWN]:
            print(f"{source}: {reason}", file=sys.stderr)
        if len(done.failed) > _SHOWN:
            print(f"... and {len(done.failed) - _SHOWN} more", file=sys.stderr)
        typer.echo(f"{done.output}: {done.made} made, {len(done.failed)} failed")
    return SOME_FAILED if done.failed else OK
