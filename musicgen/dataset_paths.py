"""The name of every object that the program writes into a dataset. docs/dataset.md lists them.

`musicgen.dataset.paths` is this module; it lies below the package because the manifest has to know the output folders.
All paths are relative to the dataset.
"""

import re

README = "README.md"
INFO = "dataset.json"
INDEX, AUDIO, FAILURES, RUNS = "index", "audio", "failures", "runs"
OUTPUT_FOLDERS = (INDEX, FAILURES, RUNS, AUDIO)  # what a run writes; never part of a manifest
METADATA = "metadata.parquet"  # what Hugging Face's AudioFolder reads (layout: files)
HUGGINGFACE_COPY = "huggingface.parquet"  # what the Parquet loader reads while the dataset is small
LISTEN = "listen.html"
SPECTROGRAMS = "spectrograms"  # pictures of the listening page
CLIPS = "clips"  # audio copied for the listening page where it cannot link to a file under `audio/`
# What a run, the card and the listening page write at the top of a dataset, beside `INFO`.
WRITTEN_FILES = (README, METADATA, HUGGINGFACE_COPY, LISTEN)
WRITTEN_FOLDERS = (*OUTPUT_FOLDERS, SPECTROGRAMS, CLIPS)

_INDEX_PART = re.compile(r"index/(?P<run>[^/]+)/part-(?P<shard>\d{5,})\.parquet")
_PLAN = re.compile(r"runs/(?P<run>[^/]+)/plan\.json")
_PLAN_FAILURES = re.compile(r"failures/[^/]+/plan\.parquet")


def index_folder(run: str) -> str:
    """Return the path of the folder of a run's index parts."""
    return f"{INDEX}/{run}"


def index_part(run: str, shard: int) -> str:
    """Return the path of the index part of a shard; its existence is the shard's commit."""
    return f"{INDEX}/{run}/part-{shard:05d}.parquet"


def parse_index_part(path: str) -> tuple[str, int] | None:
    """Parse the run and the shard from an index part's path; None for any other path."""
    match = _INDEX_PART.fullmatch(path)
    return None if match is None else (match["run"], int(match["shard"]))


def failures_part(run: str, shard: int, attempt: str) -> str:
    """Return the path of the failures of one attempt at a shard; the index part's footer names the file that counts."""
    return f"{FAILURES}/{run}/part-{shard:05d}-{attempt}.parquet"


def plan_failures(run: str) -> str:
    """Return the path of the rows that were refused while planning the run."""
    return f"{FAILURES}/{run}/plan.parquet"


def is_plan_failures(path: str) -> bool:
    """Whether the path is some run's `plan_failures`."""
    return _PLAN_FAILURES.fullmatch(path) is not None


def audio_file(key: str, sha256: str, extension: str) -> str:
    """Return the path of a clip's file, named by key and content, so that no attempt can overwrite another's bytes."""
    return f"{AUDIO}/{key[:2]}/{key}-{sha256[:12]}.{extension}"


def audio_tar(run: str, shard: int, attempt: str) -> str:
    """Return the path of the WebDataset tar of one attempt at a shard."""
    return f"{AUDIO}/{run}/part-{shard:05d}-{attempt}.tar"


def plan_file(run: str) -> str:
    """Return the path of the run's frozen plan (`musicgen.run_plan.Plan`)."""
    return f"{RUNS}/{run}/plan.json"


def parse_plan(path: str) -> str | None:
    """Parse the run from a plan's path; None for any other path."""
    match = _PLAN.fullmatch(path)
    return None if match is None else match["run"]


def manifest_part(run: str, attempt: str, number: int) -> str:
    """Return the path of a file of the run's normalized manifest that one planning attempt wrote.

    The plan names the files that count.
    """
    return f"{RUNS}/{run}/manifest/{attempt}/part-{number:05d}.parquet"


def slots_file(run: str) -> str:
    """Return the path of the number of slots that the run's first actor chose; later actors take the same."""
    return f"{RUNS}/{run}/slots.json"


def driver_token(run: str, driver: str) -> str:
    """Return the path of an empty object by which a driver's actors check that they see the driver's store."""
    return f"{RUNS}/{run}/drivers/{driver}"


def superseded_note(run: str) -> str:
    """Return the path of the note that closes an unfinished run, because a later run has planned its missing rows."""
    return f"{RUNS}/{run}/superseded.json"


def report_file(run: str) -> str:
    """Return the path of the run's report: its job, model and sessions."""
    return f"{RUNS}/{run}/report.json"
