"""What can still be read of a damaged or lost index part: its footer, and values that no engine makes again."""

import hashlib
import tarfile
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.compute as pc

from musicgen.dataset import paths
from musicgen.dataset.index_part import Footer, parse_footer
from musicgen.dataset.reader import Dataset
from musicgen.storage import Store
from musicgen.storage.parquet_reader import ParquetReader
from musicgen.value_types import TableRow

KEPT_COLUMNS = ("created_at", "engine")  # which differ each time a clip is made
_COLUMNS = (*KEPT_COLUMNS, "audio_sha256", "audio_offset", "audio")
_UNREADABLE = (pa.ArrowException, ValueError, KeyError, OSError)


@dataclass
class SalvagedPart:
    """A part as it is stored: its ETag (None: it is gone), its footer, and values of its rows, by key.

    `footer` and values are missing as far as they cannot be read. `attempt` is the one that committed it, as far as it
    can be told, from the footer or from names of the attempt's other objects.
    """

    path: str
    run: str
    shard: int
    etag: str | None = None
    footer: Footer | None = None
    attempt: str | None = None
    rows: dict[str, TableRow] = field(default_factory=dict)


def salvage_part(dataset: Dataset, path: str, keys: list[str]) -> SalvagedPart:
    """Read what can be read of the part at `path`, whose shard has the rows `keys`.

    Values that the part has lost are taken from the tables for `load_dataset`; hashes of audio also from the names of
    files, and from the tar.
    """
    store = dataset.store
    run, shard = paths.parse_index_part(path) or ("", 0)
    part = SalvagedPart(path, run, shard)
    with suppress(FileNotFoundError):
        part.etag = store.info(path).etag
        _read_part(store, part)
    part.attempt = part.footer.attempt if part.footer else _guess_attempt(store, run, shard)
    if any(key not in part.rows for key in keys):
        for table in (paths.HUGGINGFACE_COPY, paths.METADATA):
            _read_table(store, table, part, keys)
    unknown = [key for key in keys if "audio_sha256" not in part.rows.get(key, {})]
    if unknown and dataset.info.layout == "webdataset" and part.attempt is not None:
        _read_tar(store, paths.audio_tar(run, shard, part.attempt), part)
    return part


def find_old_hash(store: Store, part: SalvagedPart, key: str) -> str | None:
    """Return the sha256 of a clip's audio file as it was, or its first digits; None if nothing tells."""
    if (digest := part.rows.get(key, {}).get("audio_sha256")) is not None:
        return str(digest)
    names = [file.path for file in store.scan(f"{paths.AUDIO}/{key[:2]}", f"{key}-").files]
    return names[0].rpartition("-")[2].partition(".")[0] if len(names) == 1 else None


def _read_part(store: Store, part: SalvagedPart) -> None:
    """Read the footer and, column by column, the values whose pages fit their checksums."""
    try:
        with store.open(part.path) as file:
            reader = ParquetReader(file)
            part.footer = parse_footer(reader.schema_arrow.metadata, part.path)
            if (part.footer.run, part.footer.shard) != (part.run, part.shard):
                part.footer = None
            keys = reader.read(["key"])["key"].to_pylist()
            for name in _COLUMNS:
                with suppress(*_UNREADABLE):
                    if name == "audio" and pa.types.is_struct(reader.schema_arrow.field(name).type):
                        continue
                    for key, value in zip(keys, reader.read([name])[name].to_pylist(), strict=True):
                        part.rows.setdefault(key, {})[name] = value
    except _UNREADABLE:
        return


def _read_table(store: Store, path: str, part: SalvagedPart, keys: list[str]) -> None:
    names = [*KEPT_COLUMNS, "audio_sha256"]
    try:
        with store.open(path) as file:
            for batch in ParquetReader(file).iter_batches(columns=["key", *names]):
                for row in batch.filter(pc.is_in(batch.column("key"), value_set=pa.array(keys))).to_pylist():
                    part.rows[row["key"]] = {name: row[name] for name in names} | part.rows.get(row["key"], {})
    except (FileNotFoundError, *_UNREADABLE):
        return


def _read_tar(store: Store, path: str, part: SalvagedPart) -> None:
    try:
        with store.open(path) as file, tarfile.open(fileobj=file) as tar:
            for member in tar:
                key, _, extension = member.name.partition(".")
                if extension != "json" and (content := tar.extractfile(member)) is not None:
                    row = part.rows.setdefault(key, {})
                    row.setdefault("audio_sha256", hashlib.sha256(content.read()).hexdigest())
    except (FileNotFoundError, tarfile.TarError, OSError):
        return


def _guess_attempt(store: Store, run: str, shard: int) -> str | None:
    """Return the attempt that other objects of the shard are named by, if all are of one."""
    stem = f"part-{shard:05d}-"
    names: Iterable[str] = (
        file.path
        for folder in (f"{paths.AUDIO}/{run}", f"{paths.FAILURES}/{run}")
        for file in store.scan(folder, stem).files
    )
    attempts = {name.rpartition("/")[2].removeprefix(stem).rpartition(".")[0] for name in names}
    return attempts.pop() if len(attempts) == 1 else None
