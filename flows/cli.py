"""The command line `musicgen`. One module per command; each imports what is heavy only when it runs."""

import sys

import typer

from flows.commands.codes import decode, encode
from flows.commands.evaluate import evaluate
from flows.commands.listen import listen
from flows.commands.models import models
from flows.commands.plan import plan
from flows.commands.run import run
from flows.commands.status import status
from flows.commands.train import train
from flows.commands.verify import verify

app = typer.Typer(
    name="musicgen",
    help="Datasets of music with MusicGen: from a manifest of prompts to audio and a Parquet index, in a folder or a bucket.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("run")(run)
app.command("plan")(plan)
app.command("status")(status)
app.command("verify")(verify)
app.command("listen")(listen)
app.command("models")(models)
app.command("encode")(encode)
app.command("decode")(decode)
app.command("train")(train)
app.command("evaluate")(evaluate)


def main() -> None:
    """Entry point."""
    sys.exit(app())


if __name__ == "__main__":
    main()
