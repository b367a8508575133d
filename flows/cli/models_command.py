"""`musicgen models`: the presets and what each can do."""

import json

import typer

from flows.cli.options import AsJson, Verbose, handle_errors


def models(as_json: AsJson = False, verbose: Verbose = False) -> None:
    """List the model presets and what a row may ask of each.

    For example: musicgen models --json
    """
    with handle_errors(verbose):
        from musicgen.presets import all_presets

        presets = all_presets()
        if as_json:
            typer.echo(json.dumps([preset.model_dump(mode="json") for preset in presets], indent=1))
            return
        width = max(len(preset.name) for preset in presets)
        for preset in presets:
            size = f"{preset.parameters / 1e6:.0f}M" if preset.parameters else ""
            audio = f"{preset.sample_rate / 1000:g} kHz {'stereo' if preset.channels == 2 else 'mono'}"
            typer.echo(
                f"{preset.name:<{width}} {size:>6}  {audio:<13}  {preset.license:<12}  {', '.join(preset.controls)}"
            )
            if not preset.works:
                typer.echo(f"{'':<{width}} does not work yet: {preset.status}")
        typer.echo(
            "Other checkpoints in the published format: model.name may be a hub name, a folder or an s3:// folder."
        )
