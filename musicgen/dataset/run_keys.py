"""`runs/<run>/keys-<parts>.parquet`: keys and counts of a finished run, so that nobody reads its parts for them.

It has the hashes of the rows that were refused while planning too, and the run's plan. Its name has a hash of the names
and sizes of the index parts that it was made of. Where a part was removed or replaced since, no file has the right
name, and the parts are read. It is put when a dataset is published, and is never needed.
"""

import hashlib
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from musicgen.dataset import paths
from musicgen.dataset.digests import split_digests
from musicgen.dataset.index_part import Footer, parse_footer
from musicgen.dataset.refused_rows import HASHED_COLUMNS, hash_refused_rows
from musicgen.errors import StoreError, first_line
from musicgen.own_checksum import check_json
from musicgen.parallel import map_ordered
from musicgen.run_plan import PlanOutline
from musicgen.storage import FileInfo, Store
from musicgen.storage.parquet_reader import ParquetReader
from musicgen.storage.parquet_writer import open_parquet_writer
from musicgen.value_types import JsonObject

RUN_KEYS_SCHEMA = pa.schema(
    [("k1", pa.int64()), ("k2", pa.int64()), ("shard", pa.int32()), ("error_class", pa.string())]
)
"""The first 128 bits of a row's key, its shard, and the class of its failure; null: it was made.

With the shard `REFUSED_SHARD`: those of the hash of a row that was refused while planning, which has no key.
"""

REFUSED_SHARD = -1
_FOOTER_KEY = b"musicgen"
_PLAN_KEY = b"musicgen.plan"
_THREADS = 16
_READ_AT_ONCE_BYTES = 1 << 20  # with one request
_INT64_MAX = (1 << 63) - 1


class PartDamaged(StoreError):
    """An index part, or its file of failures, is gone or cannot be read."""


@dataclass(frozen=True, slots=True)
class RunCounts:
    """What the footers of a run's index parts say in all."""

    run: str
    parts: int = 0
    rows: int = 0
    made: int = 0
    failed: int = 0
    removed: int = 0  # rows that were taken out of their parts
    closed: int = 0  # rows of closed shards
    closed_parts: int = 0
    closed_by: str | None = None
    audio_s: float = 0.0
    audio_bytes: int = 0  # 0 also if it was not counted
    tars: int = 0
    refused: int | None = None  # rows with `REFUSED_SHARD`; None: those that were refused are not here
    beyond_int64: tuple[str, ...] | None = None  # columns of unsigned numbers with such values; None: not known
    version: int = 1

    @classmethod
    def from_document(cls, document: JsonObject) -> "RunCounts":
        """Return the counts of a JSON object; fields that another version has added are passed over."""
        counts = cls(**{name: document[name] for name in cls.__dataclass_fields__ if name in document})
        if counts.beyond_int64 is None:
            return counts
        return replace(counts, beyond_int64=tuple(counts.beyond_int64))

    @classmethod
    def of(cls, run: str, footers: Sequence[Footer], audio_bytes: int = 0) -> "RunCounts":
        """Add up footers."""
        closed = [footer for footer in footers if footer.closed]
        return cls(
            run=run,
            parts=len(footers),
            rows=sum(footer.rows for footer in footers),
            made=sum(footer.made for footer in footers),
            failed=sum(footer.failed for footer in footers),
            removed=sum(footer.removed for footer in footers),
            closed=sum(footer.rows for footer in closed),
            closed_parts=len(closed),
            closed_by=next((footer.closed for footer in closed), None),
            audio_s=round(sum(footer.audio_s for footer in footers), 6),
            audio_bytes=audio_bytes,
            tars=sum(footer.made > 0 for footer in footers if footer.tar_sha256),
        )


def hash_parts(parts: Iterable[FileInfo]) -> str:
    """Return 16 hex digits that name the state of index parts: their names and sizes, in any order."""
    digest = hashlib.sha256()
    for info in sorted(parts, key=lambda info: info.path):
        digest.update(f"{info.path} {info.size}\n".encode())
    return digest.hexdigest()[:16]


def group_parts(infos: Iterable[FileInfo]) -> dict[str, list[FileInfo]]:
    """Return the index parts of a listing by run."""
    parts: dict[str, list[FileInfo]] = {}
    for info in infos:
        if parsed := paths.parse_index_part(info.path):
            parts.setdefault(parsed[0], []).append(info)
    return parts


def find_run_keys(parts: Mapping[str, Sequence[FileInfo]], files: Mapping[str, FileInfo]) -> dict[str, FileInfo]:
    """Return the key file of each run that has one for its parts as they are. `files` are those below `runs/`."""
    with_keys = {parsed[0] for path in files if (parsed := paths.parse_run_keys(path))}
    wanted = {run: paths.run_keys(run, hash_parts(parts.get(run, ()))) for run in with_keys}
    return {run: files[path] for run, path in wanted.items() if path in files}


def write_run_keys(store: Store, run: str, parts: Sequence[FileInfo], plan: bytes, folder: Path) -> None:
    """Read the parts of a finished run, and put its key file, unless there is one. `folder` is for a temporary file.

    `plan` is the text of the run's plan. Raises `PartDamaged`.
    """
    temporary = folder / "run-keys.parquet"
    footers: list[Footer] = []
    audio_bytes, beyond_int64 = 0, set[str]()
    with open_parquet_writer(temporary, RUN_KEYS_SCHEMA, use_dictionary=["error_class"]) as writer:
        for part in map_ordered(lambda info: read_part_keys(store, info.path), parts, threads=_THREADS):
            writer.write_table(part.keys)
            footers.append(part.footer)
            audio_bytes += part.audio_bytes
            beyond_int64.update(part.beyond_int64)
        counts = RunCounts.of(run, footers, audio_bytes)
        refused = _write_refused(store, run, PlanOutline.from_json(plan).invalid, writer)
        counts = replace(counts, refused=refused, beyond_int64=tuple(sorted(beyond_int64)))
        writer.add_key_value_metadata({_FOOTER_KEY: json.dumps(asdict(counts)), _PLAN_KEY: plan})
    store.put_if_absent(paths.run_keys(run, hash_parts(parts)), temporary)
    temporary.unlink()


def _write_refused(store: Store, run: str, expected: int, writer: pq.ParquetWriter) -> int | None:
    """Write the hashes of the rows that were refused while planning; None: not all of them are there.

    Raises `PartDamaged`.
    """
    path = paths.plan_failures(run)
    if not expected:
        return 0
    try:
        with store.open(path) as file:
            reader = ParquetReader(file)
            if reader.metadata.num_rows != expected:
                return None
            for batch in reader.iter_batches(columns=list(HASHED_COLUMNS)):
                shards = pa.array(np.full(batch.num_rows, REFUSED_SHARD, np.int32))
                columns = [*hash_refused_rows(batch), shards, batch["error_class"]]
                writer.write_batch(pa.RecordBatch.from_arrays(columns, schema=RUN_KEYS_SCHEMA))
    except FileNotFoundError:
        return None
    except (pa.ArrowException, ValueError, KeyError) as error:
        raise PartDamaged(f"{store.join(path)} is damaged ({first_line(error)}); run `musicgen verify`") from None
    return expected


class KeysFooter(NamedTuple):
    """What the footer of a key file says: counts, and the text of the run's plan; None: the plan has to be read."""

    counts: RunCounts
    plan: bytes | None = None


def read_keys_footer(store: Store, file: FileInfo) -> KeysFooter | None:
    """Read the footer of a key file; None if it is damaged or gone: then the parts have to be read."""
    try:
        is_small = file.size <= _READ_AT_ONCE_BYTES
        with io.BytesIO(store.read(file.path)) if is_small else store.open(file.path) as source:
            metadata = pq.read_metadata(source)
        plan = (metadata.metadata or {}).get(_PLAN_KEY)
        is_sound = plan is not None and check_json(plan) == "right"
        return KeysFooter(parse_run_counts(metadata), plan if is_sound else None)
    except (FileNotFoundError, pa.ArrowException, ValueError, KeyError, TypeError):
        return None


def parse_run_counts(metadata: pq.FileMetaData) -> RunCounts:
    """Parse the counts in a key file's metadata. Raises `ValueError`, `KeyError` or `TypeError` if they are damaged."""
    return RunCounts.from_document(json.loads((metadata.metadata or {})[_FOOTER_KEY]))


def split_keys(keys: pa.Array | pa.ChunkedArray) -> list[pa.Array]:
    """Return the first 128 bits of keys (64 hex digits) as two columns of integers."""
    prefixes = bytes.fromhex("".join(key[:32] for key in keys.to_pylist()))
    return [pa.array(words) for words in split_digests(prefixes, 16)]


class PartKeys(NamedTuple):
    """What a key file has of one index part and its failures (`RUN_KEYS_SCHEMA`, `RunCounts`)."""

    keys: pa.Table
    footer: Footer
    audio_bytes: int
    beyond_int64: list[str]


def read_part_keys(store: Store, path: str) -> PartKeys:
    """Read the keys of a part's rows, and of those of its shard that failed. Raises `PartDamaged`."""
    _, shard = paths.parse_index_part(path) or ("", 0)
    try:
        with store.open(path) as file:
            part = ParquetReader(file)
            footer = parse_footer(part.metadata.metadata, store.join(path))
            unsigned = [field.name for field in part.schema_arrow if pa.types.is_uint64(field.type)]
            made = part.read(["key", "audio_bytes", *unsigned])
        keys, classes = made["key"].combine_chunks(), pa.nulls(len(made), pa.string())
        if footer.failures is not None:
            with store.open(footer.failures) as file:
                failed = ParquetReader(file).read(["key", "error_class"])
            failed = failed.filter(failed["key"].is_valid())
            keys = pa.concat_arrays([keys, failed["key"].combine_chunks()])
            classes = pa.concat_arrays([classes, failed["error_class"].combine_chunks()])
    except (pa.ArrowException, FileNotFoundError, ValueError, KeyError) as error:
        raise PartDamaged(f"{store.join(path)} is damaged ({first_line(error)}); run `musicgen verify`") from None
    shards = pa.array(np.full(len(keys), shard, np.int32))
    table = pa.Table.from_arrays([*split_keys(keys), shards, classes], schema=RUN_KEYS_SCHEMA)
    return PartKeys(table, footer, pc.sum(made["audio_bytes"]).as_py() or 0, find_beyond_int64(made))


def find_beyond_int64(rows: pa.Table) -> list[str]:
    """Return the columns of unsigned numbers that have one beyond int64."""
    unsigned = [field.name for field in rows.schema if pa.types.is_uint64(field.type)]
    return [name for name in unsigned if (pc.max(rows[name]).as_py() or 0) > _INT64_MAX]
