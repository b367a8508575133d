"""The name of every object that the program writes into a dataset. docs/dataset.md lists them.

`musicgen.dataset.paths` is this module; it lies below the package because the manifest has to know the output folders.
All paths are relative to the dataset.
"""

import re

README = "README.md"
README_BESIDE = "README.musicgen.md"  # the card, where README.md is somebody else's
HUGGINGFACE_CONFIG = ".huggingface.yaml"  # what the card's front matter says to `load_dataset`, in that case
INFO = "dataset.json"
INDEX, AUDIO, FAILURES, RUNS = "index", "audio", "failures", "runs"
RUN_ORDER = f"{RUNS}/order"
FOLDED_RUNS = f"{RUNS}/folded.parquet"  # copies of plans and key files (`musicgen.dataset.folded_runs`)
REMOVED = "removed"
COLLECTIONS = f"{RUNS}/gc"
PAUSE = f"{RUNS}/paused.json"  # while it is there, drivers stop at their next commit (`musicgen.dataset.pause`)
OUTPUT_FOLDERS = (INDEX, FAILURES, RUNS, AUDIO, REMOVED)  # what a run writes; never part of a manifest
METADATA = "metadata.parquet"  # what Hugging Face's AudioFolder reads (layout: files)
HUGGINGFACE_COPY = "huggingface.parquet"  # what the Parquet loader reads while the dataset is small
CURRENT_COPY = "current.parquet"  # the rows of the latest manifest: what the configuration `current` reads
LISTEN = "listen.html"
SPECTROGRAMS = "spectrograms"  # pictures of the listening page
CLIPS = "clips"  # audio copied for the listening page where it cannot link to a file under `audio/`
# What a run, the card and the listening page write at the top of a dataset, beside `INFO`.
WRITTEN_FILES = (README, README_BESIDE, HUGGINGFACE_CONFIG, METADATA, HUGGINGFACE_COPY, CURRENT_COPY, LISTEN)
WRITTEN_FOLDERS = (*OUTPUT_FOLDERS, SPECTROGRAMS, CLIPS)

_INDEX_PART = re.compile(r"index/(?P<run>[^/]+)/part-(?P<shard>\d{5,})\.parquet")
_PLAN = re.compile(r"runs/(?P<run>[^/]+)/plan\.json")
_SUPERSEDED_NOTE = re.compile(r"runs/(?P<run>[^/]+)/superseded\.json")
_ORDER_ENTRY = re.compile(r"runs/order/(?P<number>\d{8,})\.json")
_MANIFEST_ROWS = re.compile(r"runs/(?P<run>[^/]+)/rows\.parquet")
_GATE = re.compile(r"runs/gc/(?P<number>\d{8,})(?P<released>\.released)?\.json")
_AUDIO_FILE = re.compile(r"audio/(?P<folder>[0-9a-f]{2})/(?P<key>[0-9a-f]{64})-[0-9a-f]{12}\.(?:flac|wav|ogg|mp3)")
_AUDIO_TAR = re.compile(r"audio/(?P<run>[^/]+)/part-(?P<shard>\d{5,})-[^/]+\.tar")
_FAILURES_PART = re.compile(r"failures/(?P<run>[^/]+)/part-(?P<shard>\d{5,})-[^/]+\.parquet")
_DRIVER_TOKEN = re.compile(r"runs/(?P<run>[^/]+)/drivers/[^/]+")
_MANIFEST_PART = re.compile(r"runs/(?P<run>[^/]+)/manifest/[0-9a-f]{12}/part-\d{5,}\.parquet")
_RUN_KEYS = re.compile(r"runs/(?P<run>[^/]+)/keys-(?P<parts>[0-9a-f]{16})\.parquet")
_PLAN_FAILURES = re.compile(r"failures/[^/]+/plan\.parquet")
_TOMBSTONE = re.compile(
    r"removed/(?P<key>[0-9a-f]{64})-(?P<run>[^/]+)-(?P<shard>\d{5,})-(?P<entry>\d{4,}|deleted)\.json"
)


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


def order_entry(number: int) -> str:
    """Return the path of an entry of the order of runs: the plan of the dataset's run of that number, from 1 on."""
    return f"{RUN_ORDER}/{number:08d}.json"


def parse_order_entry(path: str) -> int | None:
    """Parse the number from an order entry's path; None for any other path."""
    match = _ORDER_ENTRY.fullmatch(path)
    return None if match is None else int(match["number"])


def manifest_part(run: str, attempt: str, number: int) -> str:
    """Return the path of a file of the run's normalized manifest that one planning attempt wrote.

    The plan names the files that count.
    """
    return f"{RUNS}/{run}/manifest/{attempt}/part-{number:05d}.parquet"


def manifest_rows(run: str) -> str:
    """Return the path of the keys of all rows of the run's manifest, made by this run or before, in its order."""
    return f"{RUNS}/{run}/rows.parquet"


def parse_manifest_rows(path: str) -> str | None:
    """Parse the run from the path of `manifest_rows`; None for any other path."""
    match = _MANIFEST_ROWS.fullmatch(path)
    return None if match is None else match["run"]


def run_keys(run: str, parts: str) -> str:
    """Return the path of the keys and counts of a finished run, made of index parts of this hash (`hash_parts`)."""
    return f"{RUNS}/{run}/keys-{parts}.parquet"


def parse_run_keys(path: str) -> tuple[str, str] | None:
    """Parse the run and the hash of its parts from the path of `run_keys`; None for any other path."""
    match = _RUN_KEYS.fullmatch(path)
    return None if match is None else (match["run"], match["parts"])


def slots_file(run: str, device: str = "cpu") -> str:
    """Return the path of the number of slots that the run's actors on such a device have; `device` is a GPU's name."""
    suffix = "" if device == "cpu" else "-" + re.sub(r"[^a-z0-9]+", "-", device.lower()).strip("-")
    return f"{RUNS}/{run}/slots{suffix}.json"


def driver_token(run: str, driver: str) -> str:
    """Return the path of a driver's token (`musicgen.dataset.driver_token`), by which its actors check their store."""
    return f"{RUNS}/{run}/drivers/{driver}"


def superseded_note(run: str) -> str:
    """Return the path of the note that an unfinished run is being closed, so that its missing rows can be planned anew.

    It is written before the first of the run's shards is closed.
    """
    return f"{RUNS}/{run}/superseded.json"


def parse_superseded_note(path: str) -> str | None:
    """Parse the run from a superseded note's path; None for any other path."""
    match = _SUPERSEDED_NOTE.fullmatch(path)
    return None if match is None else match["run"]


def session_file(run: str, session: str) -> str:
    """Return the path of the report of one driver's work on a run; `report_file` adds them up."""
    return f"{sessions_folder(run)}/{session}.json"


def sessions_folder(run: str) -> str:
    """Return the path of the folder of a run's sessions."""
    return f"{RUNS}/{run}/sessions"


def report_file(run: str) -> str:
    """Return the path of the run's report: its job, model and sessions."""
    return f"{RUNS}/{run}/report.json"


def run_page(run: str) -> str:
    """Return the path of the page that shows how the run went, with some of its clips (`musicgen.dataset.run_page`)."""
    return f"{RUNS}/{run}/report.html"


def tombstone(key: str, run: str, shard: int, entry: int) -> str:
    """Return the path of an entry, from 1 on, of what was decided about a clip (`musicgen.dataset.tombstones`)."""
    return f"{REMOVED}/{key}-{run}-{shard:05d}-{entry:04d}.json"


def deleted_mark(key: str, run: str, shard: int) -> str:
    """Return the path of the mark that a removed clip has been deleted, with its row."""
    return f"{REMOVED}/{key}-{run}-{shard:05d}-deleted.json"


def parse_tombstone(path: str) -> tuple[str, str, int, int | None] | None:
    """Parse key, run, shard and entry (None: the mark of deletion) of a tombstone's path; None for any other path."""
    match = _TOMBSTONE.fullmatch(path)
    if match is None:
        return None
    entry = None if match["entry"] == "deleted" else int(match["entry"])
    return match["key"], match["run"], int(match["shard"]), entry


def gate(number: int) -> str:
    """Return the path of the gate of the dataset's `gc` of that number, from 1 on (`musicgen.dataset.gc_gate`)."""
    return f"{COLLECTIONS}/{number:08d}.json"


def released_gate(number: int) -> str:
    """Return the path of the note that this `gc` has ended."""
    return f"{COLLECTIONS}/{number:08d}.released.json"


def parse_gate(path: str) -> tuple[int, bool] | None:
    """Parse the number of a gate's path, and whether it is the note of its end; None for any other path."""
    match = _GATE.fullmatch(path)
    return None if match is None else (int(match["number"]), match["released"] is not None)


def parse_audio_file(path: str) -> str | None:
    """Parse the key from the path of a clip's file; None for any other path."""
    match = _AUDIO_FILE.fullmatch(path)
    return match["key"] if match is not None and match["key"].startswith(match["folder"]) else None


def parse_audio_tar(path: str) -> tuple[str, int] | None:
    """Parse the run and the shard from a tar's path; None for any other path."""
    return _parse_run_and_shard(_AUDIO_TAR, path)


def parse_failures_part(path: str) -> tuple[str, int] | None:
    """Parse the run and the shard from the path of an attempt's failures; None for any other path."""
    return _parse_run_and_shard(_FAILURES_PART, path)


def parse_driver_token(path: str) -> str | None:
    """Parse the run from the path of a driver's token; None for any other path."""
    match = _DRIVER_TOKEN.fullmatch(path)
    return None if match is None else match["run"]


def parse_manifest_part(path: str) -> str | None:
    """Parse the run from the path of a file of a normalized manifest; None for any other path."""
    match = _MANIFEST_PART.fullmatch(path)
    return None if match is None else match["run"]


def _parse_run_and_shard(pattern: re.Pattern[str], path: str) -> tuple[str, int] | None:
    match = pattern.fullmatch(path)
    return None if match is None else (match["run"], int(match["shard"]))
