"""`musicgen convert`: a checkpoint of pickles to the published format."""

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from flows.cli.options import AsJson, Verbose, handle_errors
from flows.cli.progress_bar import ProgressBar

if TYPE_CHECKING:
    from musicgen.model.convert.conversion import Conversion


def convert(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE", help="A hub name, folder or s3:// folder: pytorch_model*.bin, or audiocraft's files."
        ),
    ],
    folder: Annotated[str, typer.Argument(metavar="FOLDER", help="The new folder, here or in a bucket.")],
    revision: Annotated[
        str | None, typer.Option("--revision", metavar="NAME", help="A branch, tag or commit of a hub model.")
    ] = None,
    text_encoder: Annotated[
        str | None, typer.Option("--text-encoder", metavar="NAME", help="The T5 of an audiocraft checkpoint.")
    ] = None,
    codec: Annotated[
        str | None, typer.Option("--codec", metavar="NAME", help="The EnCodec of an audiocraft checkpoint.")
    ] = None,
    style_encoder: Annotated[
        str | None, typer.Option("--style-encoder", metavar="NAME", help="The MERT of a style checkpoint.")
    ] = None,
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """Convert a checkpoint of pickles to safetensors, the only form that other commands load.

    For example: musicgen convert facebook/musicgen-style models/musicgen-style
    """
    with handle_errors(verbose):
        from musicgen.model.convert.conversion import convert_checkpoint

        named = {"text_encoder": text_encoder, "codec": codec, "features": style_encoder}
        companions = {part: name for part, name in named.items() if name is not None}
        with ProgressBar() as bar:
            done = convert_checkpoint(source, folder, revision, companions, bar.count("bytes written"))
        typer.echo(json.dumps(asdict(done), indent=1) if as_json else _describe(done))


def _describe(done: "Conversion") -> str:
    lines = [f"{done.target}: {done.tensors} tensors, {done.bytes / 1e9:.2f} GB, converted from {done.source}."]
    lines += [f"Its {part.replace('_', ' ')} is {name}." for part, name in done.companions.items()]
    lines.append(f"The pickles were opened in a subprocess with {done.isolation}. Use it as model.name.")
    return "\n".join(lines)
