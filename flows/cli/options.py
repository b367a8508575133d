"""Options that several commands share, and how errors become exit codes."""

import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from flows.cli.quiet import quiet_libraries
from flows.cli.safe_output import escape_output
from flows.signals import raise_on_sigterm
from musicgen.errors import JobError, LimitReached, MusicGenError, StoreError, UserError, redact_urls

if TYPE_CHECKING:
    from musicgen.job import Job

RETRY_CLASSES = ("crash", "melody", "generation", "storage")
# The exit codes, which scripts rely on.
OK, WRONG, USER_ERROR, SOME_FAILED, UNSOUND, LIMITED, INTERRUPTED = 0, 1, 2, 3, 4, 5, 130

JobPath = Annotated[
    str | None,
    typer.Argument(metavar="JOB.yaml", help="The job file; flags and --set go on top of it.", show_default=False),
]
Manifest = Annotated[
    str | None,
    typer.Option("--manifest", metavar="URI", help="Parquet, JSONL, CSV or TSV (.gz): a file, folder or glob."),
]
Output = Annotated[
    str | None, typer.Option("--output", metavar="URI", help="The dataset: a folder or s3://bucket/prefix.")
]
Model = Annotated[
    str | None, typer.Option("--model", metavar="NAME", help="A preset, hub name, folder, s3:// folder, or `embedded`.")
]
Limit = Annotated[int | None, typer.Option("--limit", metavar="N", help="Only the first N rows of the manifest.")]
Actors = Annotated[
    int | None, typer.Option("--actors", metavar="N", help="How many generator actors (default: one a GPU).")
]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Any setting of the file; repeatable."),
]
Supersede = Annotated[
    bool,
    typer.Option(
        "--supersede",
        help="Close an unfinished run of another job or of an earlier manifest, and plan what is missing.",
    ),
]
Retry = Annotated[
    list[str] | None,
    typer.Option(
        "--retry-failed",
        metavar="CLASS",
        help="Also try rows that are held back: crash, melody, generation, storage; repeatable, or with commas.",
    ),
]
Dataset = Annotated[str, typer.Argument(metavar="DATASET", help="A dataset: a folder or s3://bucket/prefix.")]
AsJson = Annotated[bool, typer.Option("--json", help="The result as JSON on stdout.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Libraries' own messages, and tracebacks.")]


def check_retry_classes(classes: list[str] | None) -> list[str]:
    """Return the failure classes of --retry-failed, also from lists. Raises `JobError` for an unknown one."""
    names = [name.strip() for text in classes or () for name in text.split(",") if name.strip()]
    for name in names:
        if name not in RETRY_CLASSES:
            raise JobError(f"--retry-failed {name!r} is not known; write one of {', '.join(RETRY_CLASSES)}")
    return names


def load_job(path: str | None, settings: list[str] | None, **flags: object) -> "Job":
    """Load the job of a command's arguments. Raises `JobError`."""
    from musicgen.job import Job  # takes half a second, which `musicgen --help` does without

    return Job.load(path, settings or (), **flags)


@contextmanager
def handle_errors(verbose: bool, store_error_code: int = USER_ERROR) -> Iterator[None]:
    """Silence libraries, and turn an error into one line on stderr and an exit code.

    A store that cannot be used is most often a wrong URI among the arguments. For a command that has checked its stores
    before it starts, `store_error_code` is `WRONG`.
    """
    quiet_libraries(verbose)
    with escape_output():
        yield from _exit_on_errors(verbose, store_error_code)


def _exit_on_errors(verbose: bool, store_error_code: int) -> Iterator[None]:
    try:
        with raise_on_sigterm():
            yield
    except (typer.Exit, typer.Abort):
        raise
    except KeyboardInterrupt:
        print("musicgen: interrupted", file=sys.stderr)
        raise typer.Exit(INTERRUPTED) from None
    except BrokenPipeError:
        sys.stderr.close()
        raise typer.Exit(WRONG) from None
    except Exception as error:
        if verbose:
            traceback.print_exc()
        text = " ".join(str(error).split())
        if not isinstance(error, MusicGenError):
            text = f"{type(error).__name__}: {text}"
        code = USER_ERROR if isinstance(error, UserError) else WRONG
        if isinstance(error, StoreError):
            code = store_error_code
        if isinstance(error, LimitReached):
            code = LIMITED
        hint = "" if verbose or code in (USER_ERROR, LIMITED) else " (-v shows more)"
        line = " ".join([f"musicgen: {text}{hint}", *getattr(error, "__notes__", ())])
        print(redact_urls(line), file=sys.stderr)
        raise typer.Exit(code) from None
