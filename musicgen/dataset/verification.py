"""Is every row of the index what it says it is? One pass over the parts, many objects at a time, bounded memory.

Plain: every object is there, and its size and sha256 are right; no key is there twice; the failures that a part names
exist. Deep: the audio is decoded too, and its duration, rate, channels and samples are what the index says. Objects
that no row names (left by attempts that died) are counted, and are no fault.
"""

import hashlib
import tempfile
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from musicgen.audio import decode_audio
from musicgen.audio.encode import hash_pcm, quantize_to_int16
from musicgen.dataset import paths
from musicgen.dataset.index_part import Footer, parse_footer
from musicgen.dataset.key_index import KeyIndex
from musicgen.dataset.reader import Dataset, read_audio
from musicgen.dataset.schema import FAILURES, INDEX_COLUMNS
from musicgen.storage.parquet_reader import ParquetReader

MOST_FAULTS = 10_000
"""How many faults are named; all are counted."""

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
]
_COLUMNS += ["audio_offset"]
_LOSSLESS = ("flac", "wav")
_TOLERANCE_S = {"mp3": 0.1}  # its frames of 1152 samples, and the encoder's delay


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong: where (a path or a key), of what kind, and how."""

    # index | missing | size | sha256 | decode | duration | rate | channels | samples | duplicate | failures | storage
    kind: str
    where: str
    what: str

    def __str__(self) -> str:
        return f"{self.where}: {self.what}"


@dataclass
class VerificationReport:
    """What was looked at and what was found. `faults` names the first ten thousand of `fault_count`."""

    uri: str
    deep: bool
    parts: int = 0
    rows: int = 0
    failed: int = 0
    audio_bytes: int = 0
    audio_s: float = 0.0
    orphans: int = 0
    fault_count: int = 0
    faults: list[Fault] = field(default_factory=list)

    @property
    def sound(self) -> bool:
        """Whether nothing is wrong."""
        return self.fault_count == 0

    def add(self, fault: Fault) -> None:
        """Count a fault, and name it while there is room."""
        self.fault_count += 1
        if len(self.faults) < MOST_FAULTS:
            self.faults.append(fault)

    def to_json(self) -> dict[str, Any]:
        """As values for `--json`."""
        plain = {name: value for name, value in vars(self).items() if name != "faults"}
        return {
            **plain,
            "audio_s": round(self.audio_s, 6),
            "sound": self.sound,
            "faults": [{"kind": f.kind, "where": f.where, "what": f.what} for f in self.faults],
        }


def verify_dataset(
    dataset: Dataset, deep: bool = False, progress: Callable[[int, int | None], None] | None = None
) -> VerificationReport:
    """Compare the index with every audio object: its presence, size and sha256; with `deep`, its samples too.

    `progress` is called every 16 rows and at the end with the objects checked so far and their number in all, which is
    None where an index part is too damaged to tell. Faults are in the report; only `StoreError` is raised.
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
        if dataset.only is None:
            report.orphans = key_index.orphans(info.path for info in dataset.store.list(paths.AUDIO))
    if progress is not None:
        progress(report.rows, total)
    return report


verify = verify_dataset  # the name before 0.2, which scripts use


def _count_rows(dataset: Dataset) -> int | None:
    try:
        return len(dataset)
    except (ValueError, OSError):  # a fault of the index, which the check itself names
        return None


def _check_rows(
    dataset: Dataset, deep: bool, report: VerificationReport, key_index: KeyIndex
) -> Iterator[tuple[list[Fault], dict[str, Any]]]:
    """Every row with its faults. A few rows are in hand at a time, whatever the size of the dataset."""
    waiting: deque[tuple[Future[list[Fault]], dict[str, Any]]] = deque()
    with ThreadPoolExecutor(_THREADS) as pool:
        for row in _read_rows(dataset, report, key_index):
            waiting.append((pool.submit(_check_row, dataset, row, deep), row))
            if len(waiting) > 2 * _THREADS:
                future, done = waiting.popleft()
                yield future.result(), done
        for future, done in waiting:
            yield future.result(), done


def _read_rows(dataset: Dataset, report: VerificationReport, key_index: KeyIndex) -> Iterator[dict[str, Any]]:
    for path in dataset.parts():
        report.parts += 1
        try:
            with dataset.store.open(path) as file:
                part = ParquetReader(file)
                report.failed += _check_part(dataset, path, part, report)
                size = 8 if dataset.info.layout == "parquet" else _BATCH_ROWS  # there, rows hold whole clips
                for batch in part.iter_batches(size, columns=_COLUMNS):
                    rows = batch.to_pylist()
                    key_index.add([row["key"] for row in rows], [_object_of(row) for row in rows], path)
                    yield from rows
        except (pa.ArrowException, ValueError, KeyError, OSError) as error:
            report.add(Fault("index", path, f"the index part cannot be read: {error}"))


def _check_part(dataset: Dataset, path: str, part: pq.ParquetFile, report: VerificationReport) -> int:
    """Check a part's schema, footer and failures file; the number of failed rows."""
    names = part.schema_arrow.names
    if tuple(names[: len(INDEX_COLUMNS)]) != INDEX_COLUMNS:
        report.add(Fault("index", path, "its columns are not those of the index"))
    footer = parse_footer(part.schema_arrow.metadata, path)
    if (footer.run, footer.shard) != paths.parse_index_part(path):
        report.add(Fault("index", path, f"it is the part of run {footer.run}, shard {footer.shard}"))
    if footer.made != part.metadata.num_rows or footer.made + footer.failed != footer.rows:
        report.add(
            Fault(
                "index",
                path,
                f"it has {part.metadata.num_rows} rows; its footer says {footer.made} of {footer.rows}, "
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


def _object_of(row: dict[str, Any]) -> str | None:
    return row["audio"] if isinstance(row["audio"], str) else None


def _check_row(dataset: Dataset, row: dict[str, Any], deep: bool) -> list[Fault]:
    where = _object_of(row) or row["key"]
    try:
        data = read_audio(dataset.store, row)
    except FileNotFoundError:
        return [Fault("missing", where, "the audio object is missing")]
    except Exception as error:  # one unreadable object must not hide what is wrong with the others
        return [Fault("storage", where, f"the audio cannot be read: {error}")]
    if data is None:
        return [Fault("missing", where, "the row holds no audio")]
    if len(data) != row["audio_bytes"]:
        return [Fault("size", where, f"the audio has {len(data)} bytes, the index says {row['audio_bytes']}")]
    if hashlib.sha256(data).hexdigest() != row["audio_sha256"]:
        return [Fault("sha256", where, "the audio's sha256 is not the index's")]
    return list(_check_sound(where, row, data)) if deep else []


def _check_sound(where: str, row: dict[str, Any], data: bytes) -> Iterator[Fault]:
    try:
        audio, rate = decode_audio(data)
    except ValueError as error:
        yield Fault("decode", where, str(error))
        return
    channels, samples = audio.shape
    tolerance_s = _TOLERANCE_S.get(row["audio_format"], 0.5 / row["sample_rate"])
    if rate != row["sample_rate"]:
        yield Fault("rate", where, f"the audio is at {rate} Hz, the index says {row['sample_rate']}")
    if channels != row["channels"]:
        yield Fault("channels", where, f"the audio has {channels} channels, the index says {row['channels']}")
    if abs(samples / rate - row["duration_s"]) > tolerance_s:
        yield Fault(
            "duration", where, f"the audio lasts {samples / rate:.4f} s, the index says {row['duration_s']:.4f}"
        )
    if not np.isfinite(audio).all():
        yield Fault("samples", where, "the audio holds NaN or infinity")
    elif row["audio_format"] in _LOSSLESS and hash_pcm(quantize_to_int16(audio)) != row["pcm_sha256"]:
        yield Fault("samples", where, "the samples' sha256 is not the index's pcm_sha256")
