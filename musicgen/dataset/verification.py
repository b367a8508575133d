"""Verifies a dataset: compares every row of the index with its audio, in one pass with bounded memory.

A plain verification checks that every object exists and has the size and sha256 of its row, that no key occurs twice,
and that the failures files of the parts exist. A deep one also decodes the audio and compares its duration, sample
rate, channels and samples with the index. Objects that no row names (left by attempts that were lost) are counted, but
are not faults.
"""

import hashlib
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from musicgen.audio import decode_audio
from musicgen.audio.encode import hash_pcm, quantize_to_int16
from musicgen.dataset import paths
from musicgen.dataset.index_part import Footer, parse_footer
from musicgen.dataset.key_index import KeyIndex
from musicgen.dataset.reader import Dataset, read_audio_bytes
from musicgen.dataset.schema import FAILURES, INDEX_COLUMNS
from musicgen.dataset.verification_report import Fault, VerificationReport
from musicgen.parallel import map_ordered
from musicgen.storage.parquet_reader import ParquetReader
from musicgen.value_types import TableRow

_THREADS = 8
_BATCH_ROWS = 256
_COLUMNS = [
    "key",
    "duration_s",
    "sample_rate",
    "channels",
    "audio",
    "audio_format",
    "audio_bytes",
    "audio_sha256",
    "pcm_sha256",
    "audio_offset",
]
_LOSSLESS = ("flac", "wav")
_TOLERANCE_S = {"mp3": 0.1}  # for frames of 1152 samples, and the encoder's delay


def verify_dataset(
    dataset: Dataset, deep: bool = False, progress: Callable[[int, int | None], None] | None = None
) -> VerificationReport:
    """Compare the index with every audio object: its presence, size and sha256; with `deep`, its samples too.

    `progress` is called every 16 rows and at the end with the number of objects checked so far and the total, which is
    None if a damaged index part makes it unknown. Faults are in the report; only `StoreError` is raised.
    """
    report = VerificationReport(dataset.uri, deep)
    total = None if progress is None else _count_rows(dataset)
    with tempfile.TemporaryDirectory() as folder, KeyIndex(Path(folder)) as key_index:
        for faults, row in _check_rows(dataset, deep, report, key_index):
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
            report.orphans = key_index.orphans(file_info.path for file_info in dataset.store.list(paths.AUDIO))
    if progress is not None:
        progress(report.rows, total)
    return report


verify = verify_dataset  # the name before 0.2, which scripts use


def _count_rows(dataset: Dataset) -> int | None:
    try:
        return len(dataset)
    except (ValueError, OSError):  # a fault of the index, which the check itself reports
        return None


def _check_rows(
    dataset: Dataset, deep: bool, report: VerificationReport, key_index: KeyIndex
) -> Iterator[tuple[list[Fault], TableRow]]:
    """Yield every row with its faults. Only a few rows are in memory at a time, whatever the size of the dataset."""
    rows = _read_rows(dataset, report, key_index)
    return map_ordered(lambda row: (_check_row(dataset, row, deep), row), rows, threads=_THREADS)


def _read_rows(dataset: Dataset, report: VerificationReport, key_index: KeyIndex) -> Iterator[TableRow]:
    for part_path in dataset.parts():
        report.parts += 1
        try:
            with dataset.store.open(part_path) as file:
                index_part = ParquetReader(file)
                report.failed += _check_part(dataset, part_path, index_part, report)
                batch_rows = 8 if dataset.info.layout == "parquet" else _BATCH_ROWS  # few, where rows hold the audio
                for batch in index_part.iter_batches(batch_rows, columns=_COLUMNS):
                    rows = batch.to_pylist()
                    key_index.add([row["key"] for row in rows], [_object_path(row) for row in rows], part_path)
                    yield from rows
        except (pa.ArrowException, ValueError, KeyError, OSError) as error:
            report.add(Fault("index", part_path, f"the index part cannot be read: {error}"))


def _check_part(dataset: Dataset, part_path: str, index_part: pq.ParquetFile, report: VerificationReport) -> int:
    """Check a part's schema, footer and failures file. Returns the number of failed rows."""
    column_names = index_part.schema_arrow.names
    if tuple(column_names[: len(INDEX_COLUMNS)]) != INDEX_COLUMNS:
        report.add(Fault("index", part_path, "its columns are not those of the index"))
    footer = parse_footer(index_part.schema_arrow.metadata, part_path)
    if (footer.run, footer.shard) != paths.parse_index_part(part_path):
        report.add(Fault("index", part_path, f"it is the part of run {footer.run}, shard {footer.shard}"))
    if footer.made != index_part.metadata.num_rows or footer.made + footer.failed != footer.rows:
        report.add(
            Fault(
                "index",
                part_path,
                f"it has {index_part.metadata.num_rows} rows; its footer says {footer.made} of {footer.rows}, "
                f"{footer.failed} failed",
            )
        )
    if (fault := _check_failures(dataset, footer)) is not None:
        report.add(fault)
    return footer.failed


def _check_failures(dataset: Dataset, footer: Footer) -> Fault | None:
    if footer.failures is None:
        return (
            Fault("failures", f"shard {footer.shard} of {footer.run}", "failed rows without a failures file")
            if footer.failed
            else None
        )
    try:
        with dataset.store.open(footer.failures) as file:
            metadata = pq.read_metadata(file)
    except FileNotFoundError:
        return Fault("failures", footer.failures, "the failures file is missing")
    except (pa.ArrowException, ValueError) as error:
        return Fault("failures", footer.failures, f"the failures file cannot be read: {error}")
    if metadata.num_rows != footer.failed or metadata.schema.to_arrow_schema().names != FAILURES.names:
        return Fault(
            "failures", footer.failures, f"it has {metadata.num_rows} rows; the index part says {footer.failed}"
        )
    return None


def _object_path(row: TableRow) -> str | None:
    return row["audio"] if isinstance(row["audio"], str) else None


def _check_row(dataset: Dataset, row: TableRow, deep: bool) -> list[Fault]:
    location = _object_path(row) or row["key"]
    try:
        content = read_audio_bytes(dataset.store, row)
    except FileNotFoundError:
        return [Fault("missing", location, "the audio object is missing")]
    except Exception as error:  # one unreadable object must not hide the faults of the others
        return [Fault("storage", location, f"the audio cannot be read: {error}")]
    if content is None:
        return [Fault("missing", location, "the row holds no audio")]
    if len(content) != row["audio_bytes"]:
        return [Fault("size", location, f"the audio has {len(content)} bytes, the index says {row['audio_bytes']}")]
    if hashlib.sha256(content).hexdigest() != row["audio_sha256"]:
        return [Fault("sha256", location, "the audio's sha256 is not the index's")]
    return list(_check_samples(location, row, content)) if deep else []


def _check_samples(location: str, row: TableRow, content: bytes) -> Iterator[Fault]:
    try:
        audio, sample_rate = decode_audio(content)
    except ValueError as error:
        yield Fault("decode", location, str(error))
        return
    channels, sample_count = audio.shape
    tolerance_s = _TOLERANCE_S.get(row["audio_format"], 0.5 / row["sample_rate"])
    if sample_rate != row["sample_rate"]:
        yield Fault("rate", location, f"the audio is at {sample_rate} Hz, the index says {row['sample_rate']}")
    if channels != row["channels"]:
        yield Fault("channels", location, f"the audio has {channels} channels, the index says {row['channels']}")
    if abs(sample_count / sample_rate - row["duration_s"]) > tolerance_s:
        yield Fault(
            "duration",
            location,
            f"the audio lasts {sample_count / sample_rate:.4f} s, the index says {row['duration_s']:.4f}",
        )
    if not np.isfinite(audio).all():
        yield Fault("samples", location, "the audio holds NaN or infinity")
    elif row["audio_format"] in _LOSSLESS and hash_pcm(quantize_to_int16(audio)) != row["pcm_sha256"]:
        yield Fault("samples", location, "the samples' sha256 is not the index's pcm_sha256")
