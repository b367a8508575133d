"""Finds what no committed or running shard can need: what processes that were killed have left in a dataset.

Only names that we give are looked at, and of these only such that no commit can use any more, whoever may still be at
work: an attempt's at a shard that is settled, a clip's whose key the index has under another name or that was removed.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from musicgen.cleanup.named_audio import read_named_audio
from musicgen.dataset import paths
from musicgen.dataset.reader import Dataset
from musicgen.plan.planned_runs import RunListing
from musicgen.storage.store import PROBE_NAME, UnfinishedWrite

Kind = Literal["audio", "failures", "manifest", "token", "probe", "unfinished write"]


_PARSE_LARGE = (  # the names of objects that may be large enough to be uploaded in parts
    paths.parse_index_part,
    paths.parse_audio_file,
    paths.parse_audio_tar,
    paths.parse_failures_part,
    paths.parse_manifest_part,
    paths.parse_manifest_rows,
    paths.parse_run_keys,
    paths.parse_plan,
    paths.parse_order_entry,
)


class Leftover(NamedTuple):
    """An object that nothing needs; `upload` is set for an upload in parts that was never completed."""

    kind: Kind
    path: str
    size: int
    upload: str | None = None


@dataclass
class Survey:
    """What lies in a dataset beside what it needs.

    `kept` are objects of ours that nothing names now, but that a later commit may use: audio of a clip that was not
    made yet, or a manifest whose planner may still live. `foreign` are other people's.
    """

    leftovers: list[Leftover] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    foreign: list[str] = field(default_factory=list)


def survey_dataset(dataset: Dataset, listing: RunListing) -> Survey:
    """Look for leftovers. `listing` is that of `list_runs`; objects of its unfinished runs are not looked at."""
    survey = Survey()
    finder = _Finder(dataset, listing, survey)
    finder.look_at_audio()
    finder.look_at_failures()
    finder.look_at_runs()
    finder.look_at_writes()
    return survey


class _Finder:
    """Sorts the objects of a dataset."""

    def __init__(self, dataset: Dataset, listing: RunListing, survey: Survey):
        self.dataset, self.listing, self.survey = dataset, listing, survey
        parsed = (paths.parse_index_part(path) for path in listing.index_parts)
        self.settled = {run_and_shard for run_and_shard in parsed if run_and_shard is not None}
        self.finished = {run.run for run in listing.runs.values() if run.finished}
        self.writes = self._list_writes()
        self.removed = {place.key for place, entry in dataset.tombstones() if entry.state in ("deleting", "deleted")}

    def look_at_audio(self) -> None:
        """Look for audio that no row names."""
        with read_named_audio(self.dataset) as named:
            for path, key, size, has_key in named.find_unnamed(self._list_audio()):
                is_settled = paths.parse_audio_tar(path) in self.settled
                if has_key or is_settled or (key is not None and key in self.removed):
                    self.survey.leftovers.append(Leftover("audio", path, size))
                else:
                    self.survey.kept.append(path)

    def _list_audio(self) -> Iterator[tuple[str, str | None, int]]:
        for info in self.dataset.store.list(paths.AUDIO):
            key = paths.parse_audio_file(info.path)
            if key is None and paths.parse_audio_tar(info.path) is None:
                self.survey.foreign.append(info.path)
            else:
                yield info.path, key, info.size

    def look_at_failures(self) -> None:
        """Look for failures files of attempts that did not commit their shard."""
        named = {footer.failures for _, footer in self.dataset.footers()}
        for info in self.dataset.store.list(paths.FAILURES):
            run_and_shard = paths.parse_failures_part(info.path)
            if info.path in named or paths.is_plan_failures(info.path):
                continue
            if run_and_shard is None:
                self.survey.foreign.append(info.path)
            elif run_and_shard in self.settled:
                self.survey.leftovers.append(Leftover("failures", info.path, info.size))
            else:
                self.survey.kept.append(info.path)

    def look_at_runs(self) -> None:
        """Look for tokens of drivers and manifests of planners, of runs that are finished."""
        named = {path for run in self.listing.runs.values() for path in run.outline.manifest_files}
        for info in self.dataset.store.list(paths.RUNS):
            if paths.parse_driver_token(info.path) in self.finished:
                self.survey.leftovers.append(Leftover("token", info.path, info.size))
            elif (run := paths.parse_manifest_part(info.path)) is not None and info.path not in named:
                # Where its run was planned, its planner has lost; else it may put its plan yet.
                if run in self.finished:
                    self.survey.leftovers.append(Leftover("manifest", info.path, info.size))
                else:
                    self.survey.kept.append(info.path)

    def look_at_writes(self) -> None:
        """Look for probes, temporary files, and uploads that were never completed.

        Only those that were there before all else was looked at too: a planner's probe lasts a moment, and a planner
        whose probe is deleted stops.
        """
        before = {(write.path, write.upload) for write in self.writes}
        self.survey.leftovers += [write for write in self._list_writes() if (write.path, write.upload) in before]

    def _list_writes(self) -> list[Leftover]:
        store = self.dataset.store
        probes = [info for info in store.scan().files if PROBE_NAME.fullmatch(info.path)]
        writes = [write for write in store.list_unfinished_writes() if _is_ours(write)]
        return [
            *(Leftover("probe", info.path, info.size) for info in probes),
            *(Leftover("unfinished write", write.path, write.size or 0, write.upload) for write in writes),
        ]


def _is_ours(write: UnfinishedWrite) -> bool:
    """Whether an upload was to an object that we name, or a temporary file lies in a folder that we write."""
    folder, slash, _ = write.path.partition("/")
    if write.upload is None:
        return not slash or folder in paths.WRITTEN_FOLDERS
    if not slash:
        return folder in (*paths.WRITTEN_FILES, paths.INFO)
    if write.path == paths.FOLDED_RUNS:
        return True
    return paths.is_plan_failures(write.path) or any(parse(write.path) is not None for parse in _PARSE_LARGE)
