"""Verifies a dataset: compares every row of the index with its audio, in one pass with bounded memory.

A plain verification checks that every object exists and has the size and sha256 of its row, that no key occurs twice,
and that the parts of finished runs and the failures files exist. A deep one reads every byte of the dataset: it also
decodes the audio, compares its duration, sample rate, channels and samples with the index, reads every column, and
compares each file with its own checksum, the runs' plans with their order, and what is made from the index with it. A
quick one reads the index and compares it with listings. Objects that no row names (left by attempts that were lost) are
counted, but are not faults; a store that cannot be used for a while is waited for, and is none either.
"""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import pyarrow as pa

from musicgen.dataset import paths
from musicgen.dataset.clip_verification import CLIP_COLUMNS, check_clip, find_object_path
from musicgen.dataset.derived_verification import check_derived
from musicgen.dataset.index_part import parse_footer
from musicgen.dataset.key_index import KeyIndex
from musicgen.dataset.part_verification import check_failures, check_part, check_removed, check_tar
from musicgen.dataset.reader import Dataset
from musicgen.dataset.run_verification import check_info, check_runs
from musicgen.dataset.tombstones import Tombstones
from musicgen.dataset.verification_report import Fault, VerificationReport
from musicgen.dataset.whole_file import open_whole
from musicgen.parallel import map_ordered
from musicgen.storage.parquet_reader import ParquetReader
from musicgen.temporary_folder import temporary_folder
from musicgen.value_types import TableRow

_THREADS = 8
_BATCH_ROWS = 256


def verify_dataset(
    dataset: Dataset,
    deep: bool = False,
    progress: Callable[[int, int | None], None] | None = None,
    quick: bool = False,
    sample: int | None = None,
) -> VerificationReport:
    """Compare the index with every audio object: its presence, size and sha256; with `deep`, every byte of the dataset.

    `quick` compares names and sizes from listings instead of reading audio; `sample` does so too, and reads the audio
    of that many clips, drawn at random. `progress` is called every 16 rows and at the end with the number of objects
    checked so far and the total, which is None if a damaged index part makes it unknown. Faults are in the report; only
    `StoreError` is raised: where the store cannot be used for a longer time.
    """
    report = VerificationReport(dataset.uri, deep, quick)
    total = None if progress is None and sample is None else _count_rows(dataset)
    chosen = None if sample is None else frozenset(random.sample(range(total or 0), min(sample, total or 0)))
    with temporary_folder() as folder, KeyIndex(folder) as key_index:
        work = _Verification(dataset, report, key_index, folder, deep, frozenset() if quick else chosen)
        for faults, row in work.check_rows():
            for fault in faults:
                report.add(fault)
            report.rows += 1
            report.audio_bytes += row["audio_bytes"] or 0
            report.audio_s += row["duration_s"] or 0.0
            if progress is not None and report.rows % 16 == 0:
                progress(report.rows, total)
        for key, parts in key_index.duplicates():
            report.add(Fault("duplicate", key, f"the key is in the index {len(parts)} times: {', '.join(parts)}"))
        if dataset.only_run is None:
            report.orphans = key_index.orphans((file.path, file.size) for file in dataset.store.list(paths.AUDIO))
            for key, path, part, text in key_index.lost_objects() if work.chosen is not None else ():
                report.add(Fault("size" if "bytes" in text else "missing", path, text, part, key))
        for fault in (*check_info(dataset, deep), *check_runs(dataset, deep, folder)):
            report.add(fault)
        if deep and dataset.only_run is None:
            check_derived(dataset, report, folder)
    if progress is not None:
        progress(report.rows, total)
    return report


verify = verify_dataset  # the name before 0.2, which scripts use


def _count_rows(dataset: Dataset) -> int | None:
    try:
        return len(dataset)
    except (ValueError, OSError):  # a fault of the index, which the check itself reports
        return None


@dataclass
class _Verification:
    """One pass over the rows of the index. `chosen` are the numbers of the rows whose audio is read; None: of all."""

    dataset: Dataset
    report: VerificationReport
    key_index: KeyIndex
    folder: Path
    deep: bool
    chosen: frozenset[int] | None
    _first: int = field(default=0, init=False)  # the number of the next row

    @cached_property
    def _tombstones(self) -> Tombstones:
        return self.dataset.tombstones()

    def check_rows(self) -> Iterator[tuple[list[Fault], TableRow]]:
        """Yield every row with its faults. Only a few rows are in memory at a time, whatever the dataset's size."""

        def check(item: tuple[str, TableRow, bool]) -> tuple[list[Fault], TableRow]:
            part, row, is_read = item
            return (check_clip(self.dataset, row, part, self.deep) if is_read else [], row)

        return map_ordered(check, self._read_rows(), threads=_THREADS)

    def _read_rows(self) -> Iterator[tuple[str, TableRow, bool]]:
        """Yield each row with its part's path, and whether its audio is to be read."""
        for path in self.dataset.parts():
            self.report.parts += 1
            try:
                with open_whole(self.dataset.store, path, self.folder) as file:
                    reader = ParquetReader(file)
                    for fault in check_part(path, file, reader, self.dataset.info, self.deep):
                        self.report.add(fault)
                    footer = parse_footer(reader.schema_arrow.metadata, path)
                    self.report.failed += footer.failed
                    self.report.closed += footer.rows if footer.closed is not None else 0
                    yield from self._read_part(path, reader)
                for fault in check_failures(self.dataset, footer, path, self.deep, self.folder):
                    self.report.add(fault)
                for fault in check_tar(self.dataset, footer, path) if self.deep else ():
                    self.report.add(fault)
                for fault in check_removed(footer, path, self._tombstones) if self.deep else ():
                    self.report.add(fault)
            except (pa.ArrowException, ValueError, KeyError, OSError) as error:
                self.report.add(Fault("index", path, f"the index part cannot be read: {error}", path))

    def _read_part(self, path: str, reader: ParquetReader) -> Iterator[tuple[str, TableRow, bool]]:
        holds_audio = self.dataset.info.layout == "parquet"
        for group in range(reader.num_row_groups):
            numbers = range(self._first, self._first + reader.metadata.row_group(group).num_rows)
            self._first = numbers.stop
            is_skipped = holds_audio and self.chosen is not None and self.chosen.isdisjoint(numbers)
            columns = [name for name in CLIP_COLUMNS if not (is_skipped and name == "audio")]
            batches = reader.iter_batches(
                8 if holds_audio else _BATCH_ROWS,  # few, where rows hold the audio
                row_groups=[group],
                columns=None if self.deep and not is_skipped else columns,
            )
            done = numbers.start
            for batch in batches:
                rows = [{"audio": None, **row} for row in batch.select(columns).to_pylist()]
                self._note_rows(path, rows)
                for number, row in enumerate(rows, done):
                    is_read = self.chosen is None or number in self.chosen
                    self.report.audio_checked += is_read
                    yield path, row, is_read
                done += len(rows)

    def _note_rows(self, path: str, rows: list[TableRow]) -> None:
        ends = [(row["audio_offset"] or 0) + (row["audio_bytes"] or 0) for row in rows]
        self.key_index.add([row["key"] for row in rows], [find_object_path(row) for row in rows], path, ends)
