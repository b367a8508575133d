"""Where everything lies in a dataset: the one source of truth for names that must agree."""

import re

README = "README.md"
PINS = "dataset.json"
INDEX, AUDIO, FAILURES, RUNS = "index", "audio", "failures", "runs"
METADATA = "metadata.parquet"  # what Hugging Face's AudioFolder reads (layout: files)
EMBEDDED = "huggingface.parquet"  # what its Parquet loader reads while the dataset is small
LISTEN = "listen.html"
SPECTROGRAMS, CLIPS = (
    "spectrograms",
    "clips",
)  # what the page shows and, where it cannot link to a file under `audio/`, plays

_PART = re.compile(r"index/(?P<run>[^/]+)/part-(?P<shard>\d{5,})\.parquet")


def index_folder(run: str) -> str:
    """The folder of a run's index parts."""
    return f"{INDEX}/{run}"


def index_part(run: str, shard: int) -> str:
    """The index part of a shard; its existence is the shard's commit."""
    return f"{INDEX}/{run}/part-{shard:05d}.parquet"


def parse_index_part(path: str) -> tuple[str, int] | None:
    """The run and the shard of an index part's path, or None for any other path."""
    match = _PART.fullmatch(path)
    return None if match is None else (match["run"], int(match["shard"]))


def failures_part(run: str, shard: int, attempt: str) -> str:
    """One attempt's failures of a shard; the index part names the one that counts."""
    return f"{FAILURES}/{run}/part-{shard:05d}-{attempt}.parquet"


def plan_failures(run: str) -> str:
    """The rows refused while planning."""
    return f"{FAILURES}/{run}/plan.parquet"


def audio_file(key: str, sha256: str, extension: str) -> str:
    """A clip's file, named by key and content, so that no attempt can overwrite another's bytes."""
    return f"{AUDIO}/{key[:2]}/{key}-{sha256[:12]}.{extension}"


def audio_tar(run: str, shard: int, attempt: str) -> str:
    """One attempt's WebDataset tar of a shard."""
    return f"{AUDIO}/{run}/part-{shard:05d}-{attempt}.tar"


def superseded(run: str) -> str:
    """The note that closes an unfinished run: another one has planned its missing rows."""
    return f"{RUNS}/{run}/superseded.json"


def plan(run: str) -> str:
    """The run's frozen plan."""
    return f"{RUNS}/{run}/plan.json"


def report(run: str) -> str:
    """What ran."""
    return f"{RUNS}/{run}/report.json"
