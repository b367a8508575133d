"""`musicgen evaluate`: measures how well the clips of a model follow their prompts and melodies."""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

import musicgen
from flows.cli.options import OK, UNSOUND, AsJson, Verbose, handle_errors
from musicgen.errors import JobError


def evaluate(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="A preset, hub name, folder, s3:// folder, or `embedded`.")
    ],
    clips: Annotated[
        int, typer.Option("--clips", metavar="N", help="How many unseen examples; for the bounds, 100 or more.")
    ] = 120,
    seed: Annotated[int, typer.Option("--seed", metavar="S", help="Another seed: other examples, other clips.")] = 0,
    output: Annotated[
        Path, typer.Option("--output", metavar="FOLDER", help="For report.json, the clips and the originals.")
    ] = Path("out/evaluation"),
    corpus: Annotated[
        Path | None,
        typer.Option("--corpus", metavar="FOLDER", help="A corpus made before; by default a new one is made."),
    ] = None,
    device: Annotated[str, typer.Option("--device", metavar="NAME", help="auto, cpu, cuda or cuda:0.")] = "auto",
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """Generate from unseen prompts and melodies, and judge the clips.

    Exit code 4: some bounds do not hold; each is named.

    For example: musicgen evaluate embedded --output out/evaluation
    """
    with handle_errors(verbose):
        from musicgen.evaluation import JUDGE_MODULES, evaluate_model, require_extras
        from musicgen.evaluation.bounds import LEAST_CLIPS

        if clips < 2:
            raise JobError(
                f"--clips {clips} is too few: two are the least that can be compared, and the bounds ask for 100"
            )
        require_extras(*(JUDGE_MODULES if corpus else ()))  # before a model is fetched
        with musicgen.MusicGen.from_pretrained(model, device) as loaded:
            if clips < LEAST_CLIPS and loaded.spec.supports("melody"):
                print(
                    f"--clips {clips} is fewer than the {LEAST_CLIPS} that the bound melody.n asks for, so the exit "
                    "code will be 4, however good the model is",
                    file=sys.stderr,
                )
            report = evaluate_model(
                loaded,
                model,
                output,
                clips,
                seed,
                corpus,
                on_message=lambda text: print(text, file=sys.stderr, flush=True),
            )
        if as_json:
            typer.echo(json.dumps(report.to_json(), indent=1, ensure_ascii=False))
        else:
            typer.echo(report.table())
            bounds = f"{len(report.verdicts) - len(report.short)} of {len(report.verdicts)} bounds hold"
            typer.echo(f"{model}: {bounds}; {output / 'report.json'}; {report.about['took_s']:.0f} s")
        raise typer.Exit(UNSOUND if report.short else OK)
