"""`musicgen gc`: deletes removed clips for good, and what killed processes have left. docs/commit.md has the proof.

The order of its steps is what makes a kill at any moment safe: a clip's deletion is decided by one object first; then
its row goes out of the index, then its audio is deleted, and its mark of deletion comes last. What was begun and not
ended is done by the next gc.
"""

from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

import pyarrow as pa

from musicgen.cleanup.leftovers import Leftover, Survey, survey_dataset
from musicgen.cleanup.listening_pages import delete_pages, delete_run_pages
from musicgen.cleanup.prompt_purge import purge_rows
from musicgen.cleanup.row_deletion import delete_rows
from musicgen.dataset import paths
from musicgen.dataset.card import publish_card
from musicgen.dataset.gc_gate import Gate, put_gate, release_gate
from musicgen.dataset.index_part import parse_footer
from musicgen.dataset.reader import Dataset
from musicgen.dataset.tombstones import ClipPlace, LastEntry, mark_deleted, put_entry
from musicgen.errors import JobError, StoreError, first_line
from musicgen.parallel import map_ordered
from musicgen.plan.planned_runs import RunListing, list_runs
from musicgen.storage.parquet_reader import ParquetReader
from musicgen.storage.store import UnfinishedWrite

_THREADS = 16
_Item = TypeVar("_Item")

Progress = Callable[[str, int, int | None], None]
"""Called with what is done, how many of it are done, and how many there are."""


@dataclass
class CollectionReport:
    """What `gc` has found, and with `deleted` has deleted. `failed` are objects that it could not delete, with why."""

    deleted: bool
    clips: int = 0  # removed ones
    rows: int = 0  # that were taken out of the index
    purged: int = 0  # rows of manifests and failures that were blanked out
    survey: Survey = field(default_factory=Survey)
    unfinished: tuple[str, ...] = ()  # runs that keep `--delete` from working
    failed: list[tuple[str, str]] = field(default_factory=list)
    notes: tuple[str, ...] = ()  # what the card says could not be done


def find_garbage(dataset: Dataset) -> CollectionReport:
    """Say what `collect_garbage` would delete; writes nothing."""
    with _damage_named(dataset):
        return _find_garbage(dataset)


def _find_garbage(dataset: Dataset) -> CollectionReport:
    listing = list_runs(dataset.store)
    clips = sum(entry.state in ("removed", "deleting") for _, entry in dataset.tombstones())
    unfinished = tuple(run.run for run in listing.unfinished)
    return CollectionReport(False, clips=clips, survey=survey_dataset(dataset, listing), unfinished=unfinished)


def collect_garbage(
    dataset: Dataset, purge_prompts: bool = False, progress: Progress | None = None
) -> CollectionReport:
    """Delete removed clips, their rows and what nothing needs. No run can begin meanwhile.

    With `purge_prompts` the rows of deleted clips in the runs' manifests are blanked out too. Raises `JobError` while a
    run is unfinished or another gc is at work, and `StoreError`; what was done stays done, and the next gc goes on.
    """
    dataset.store.probe()
    dataset.store.probe_replacing()
    gate = put_gate(dataset.store)
    try:
        with _damage_named(dataset):
            return _Collection(dataset, gate, progress or (lambda *_: None)).run(purge_prompts)
    finally:
        release_gate(dataset.store, gate)


@contextmanager
def _damage_named(dataset: Dataset) -> Iterator[None]:
    """Raise `StoreError` for an object that cannot be read: then nobody knows what it needs, and nothing is deleted."""
    try:
        yield
    except (pa.ArrowException, ValueError, FileNotFoundError) as error:
        damaged = list(_find_damaged_parts(dataset))
        place = dataset.store.join(damaged[0]) if damaged else dataset.uri
        more = f", and {len(damaged) - 1} more parts of the index" if len(damaged) > 1 else ""
        raise StoreError(
            f"{place}{more} cannot be read ({first_line(error)}), so nothing more is deleted; repair the dataset "
            f"first: musicgen repair {dataset.uri}"
        ) from error


def _find_damaged_parts(dataset: Dataset) -> Iterator[str]:
    """Yield the index parts of which not every column can be read."""
    for path in dataset.parts():
        try:
            with dataset.store.open(path) as file:
                reader = ParquetReader(file)
                parse_footer(reader.schema_arrow.metadata, path)
                for _ in reader.iter_batches():
                    pass
        except (pa.ArrowException, ValueError, FileNotFoundError):
            yield path


class _Collection:
    """One gc, while its gate stands."""

    def __init__(self, dataset: Dataset, gate: Gate, progress: Progress):
        self.dataset, self.gate, self.progress = dataset, gate, progress
        self.report = CollectionReport(True)

    def run(self, purge_prompts: bool) -> CollectionReport:
        """Do all steps."""
        listing = list_runs(self.dataset.store)  # after the gate was put
        _refuse_unfinished(self.dataset, listing)
        clips = self._claim_clips()
        if clips:
            self._delete_clips(clips)
        if purge_prompts:
            gone = frozenset(place.key for place, entry in self.dataset.tombstones() if entry.state != "undone")
            manifests = [
                info.path for info in self.dataset.store.list(paths.RUNS) if paths.parse_manifest_part(info.path)
            ]
            self._purge("manifests without removed prompts", manifests, gone)
        self.report.survey = survey_dataset(self.dataset, listing)
        self._delete_leftovers(self.report.survey.leftovers)
        if clips and not self.report.failed:
            self.report.notes = publish_card(self.dataset).notes
            mark_deleted(self.dataset.store, clips)
        return self.report

    def _claim_clips(self) -> list[ClipPlace]:
        """Decide that the removed clips are deleted; from here on no removal of them can be undone."""

        def claim(item: tuple[ClipPlace, LastEntry]) -> ClipPlace | None:
            place, entry = item
            # A `gc` that was killed has decided on those that are `deleting`.
            is_ours = entry.state == "deleting" or put_entry(self.dataset.store, place, entry, "deleting")
            return place if is_ours else None

        due = [item for item in self.dataset.tombstones() if item[1].state in ("removed", "deleting")]
        claimed = map_ordered(claim, self._count("clips chosen to be deleted", due), threads=_THREADS)
        clips = [place for place in claimed if place is not None]
        self.report.clips = len(clips)
        return clips

    def _delete_clips(self, clips: Collection[ClipPlace]) -> None:
        publish_card(self.dataset)  # its table has the clips' audio, unless it was written since their removal
        gone = frozenset(place.key for place in clips)
        parts: dict[str, set[str]] = {}
        for place in clips:
            parts.setdefault(paths.index_part(place.run, place.shard), set()).add(place.key)
        for path, keys in self._count("index parts without removed rows", sorted(parts.items())):
            self.report.rows += delete_rows(self.dataset, path, keys)
        failures = sorted({footer.failures for _, footer in self.dataset.footers() if footer.failures})
        self._purge("failures without removed prompts", failures, gone)
        delete_pages(self.dataset.store, gone, self.dataset.info.format)
        delete_run_pages(self.dataset.store, {place.run for place in clips}, gone)

    def _purge(self, label: str, files: Collection[str], gone: frozenset[str]) -> None:
        if gone:
            purge = partial(purge_rows, self.dataset.store)
            counts = map_ordered(lambda path: purge(path, gone), self._count(label, files), threads=_THREADS)
            self.report.purged += sum(counts)

    def _delete_leftovers(self, leftovers: Collection[Leftover]) -> None:
        store = self.dataset.store

        def delete(leftover: Leftover) -> tuple[str, str] | None:
            try:
                if leftover.kind == "unfinished write":
                    store.discard_unfinished_write(UnfinishedWrite(leftover.path, leftover.size, leftover.upload))
                else:
                    store.delete(leftover.path)
            except StoreError as error:
                return leftover.path, str(error)
            return None

        faults = map_ordered(delete, self._count("objects deleted", leftovers), threads=_THREADS)
        self.report.failed += [fault for fault in faults if fault is not None]

    def _count(self, label: str, items: Collection[_Item]) -> Iterable[_Item]:
        for done, item in enumerate(items):
            self.progress(label, done, len(items))
            yield item


def _refuse_unfinished(dataset: Dataset, listing: RunListing) -> None:
    if listing.unfinished:
        runs = ", ".join(run.run for run in listing.unfinished)
        raise JobError(
            f"{dataset.uri}: a run is unfinished ({runs}), and may need what gc would delete; finish it, or close it "
            "with --supersede of a later one, and run gc again (if it was finished, it has lost parts of the index: "
            f"musicgen repair {dataset.uri})"
        )
