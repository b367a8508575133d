"""`musicgen train`: trains a checkpoint from a recipe, or from a folder of music."""

import shlex
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from flows.cli.options import OK, Set, Verbose, handle_errors
from flows.own_command import own_command
from musicgen.training.log import format_progress
from musicgen.value_types import JsonObject

if TYPE_CHECKING:
    from pathlib import Path

    from musicgen.training import CheckpointMeasure, Recipe

_FLAGS = {"data": "data", "output": "output", "from": "start", "pattern": "training.pattern", "steps": "training.steps"}
_FLAGS |= {"hours": "training.hours"}


def train(
    recipe: Annotated[
        str | None, typer.Argument(metavar="RECIPE.yaml", help="The recipe; flags and --set go on top of it.")
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            "--data", metavar="URI", help="A folder of audio and Parquet captions, or a dataset that `run` made."
        ),
    ] = None,
    output: Annotated[
        str | None, typer.Option("--output", metavar="FOLDER", help="Where the work and the checkpoint go.")
    ] = None,
    start: Annotated[
        str | None,
        typer.Option("--from", metavar="NAME", help="A checkpoint to train on from; its codec and sizes are kept."),
    ] = None,
    pattern: Annotated[
        str | None, typer.Option("--pattern", metavar="NAME", help="delay, parallel, coarse_first, flattening ...")
    ] = None,
    steps: Annotated[int | None, typer.Option("--steps", metavar="N", help="End after N steps.")] = None,
    hours: Annotated[
        float | None, typer.Option("--hours", metavar="H", help="Or end after H hours of running.")
    ] = None,
    settings: Set = None,
    verbose: Verbose = False,
) -> None:
    """Train a model, or go on with one. Run it again after any interruption, and it goes on.

    For example: musicgen train --data music --output out/mine --hours 3
    """
    with handle_errors(verbose):
        from musicgen.training import Recipe, run_ablation, run_recipe, with_default_codec

        given = {"data": data, "output": output, "from": start, "pattern": pattern, "steps": steps, "hours": hours}
        flags: list[tuple[str, str, object]] = [
            (f"--{name}", _FLAGS[name], value) for name, value in given.items() if value is not None
        ]
        if steps is not None and hours is None:  # the one limit replaces the other, which the recipe may set
            flags.append(("--steps", "training.hours", None))
        if hours is not None and steps is None:
            flags.append(("--hours", "training.steps", None))
        loaded = Recipe.load(recipe, settings or (), flags)
        if recipe is None:
            loaded = with_default_codec(loaded)
        command = shlex.join(["musicgen", "train", *sys.argv[2:]]) if sys.argv[1:2] == ["train"] else "musicgen train"
        if loaded.ablation:
            typer.echo(
                run_ablation(
                    loaded, command, on_message=_print_message, on_step=_print_step, measures=_make_measure(loaded)
                )
            )
        else:
            checkpoint = run_recipe(loaded, command, on_message=_print_message, on_step=_print_step)
            typer.echo(f"the trained model is {checkpoint}; make clips with it: {_try_command(checkpoint)}")
        raise typer.Exit(OK)


def _try_command(checkpoint: "Path") -> str:
    """Return a command that makes the clips of the demo with the checkpoint."""
    return own_command("run", "configs/jobs/demo.yaml", "--model", str(checkpoint), "--output", f"{checkpoint}-clips")


def _make_measure(recipe: "Recipe") -> "CheckpointMeasure | None":
    """Return the measure of an ablation's clips, or None for the user's own data, which lack the labels it needs."""
    if recipe.data is not None:
        return None
    from musicgen.evaluation import JUDGE_MODULES, make_ablation_measure, require_extras

    require_extras(*JUDGE_MODULES)  # before hours of training
    return make_ablation_measure(recipe.folder / "corpus")


def _print_message(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _print_step(line: JsonObject) -> None:
    _print_message(format_progress(line))
