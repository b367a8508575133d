"""`runs/<run>/rows.parquet`: the keys of all rows of a run's manifest, whether made by this run, before, or not at all.

It says which rows of the dataset the manifest asks for, in the manifest's order. The rows of the latest run's manifest
are the dataset's current ones (`musicgen.dataset.current_rows`).
"""

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from musicgen.dataset import paths
from musicgen.errors import StoreError, first_line
from musicgen.run_plan import PlanOutline
from musicgen.storage import Store
from musicgen.storage.parquet_reader import ParquetReader
from musicgen.storage.parquet_writer import open_parquet_writer

ROWS_SCHEMA = pa.schema([("key", pa.string())])
_FOOTER_KEY = b"musicgen"
_GROUP_ROWS = 1 << 16


@dataclass(frozen=True, slots=True)
class RowsFooter:
    """The metadata of a `rows.parquet`: its run, the number of its rows, and the sha256 of its keys in their order."""

    run: str
    rows: int
    sha256: str
    version: int = 1


class KeyDigest:
    """The sha256 of a sequence of keys."""

    def __init__(self) -> None:
        self._digest = hashlib.sha256()

    def add(self, keys: bytes) -> None:
        """Add the next keys, joined."""
        self._digest.update(keys)

    def add_hex(self, keys: pa.Array | pa.ChunkedArray) -> None:
        """Add the next keys, as hex. Raises `ValueError` for what is no hex."""
        self._digest.update(bytes.fromhex("".join(keys.to_pylist())))

    def hexdigest(self) -> str:
        """Return the sha256 of the keys so far."""
        return self._digest.hexdigest()


def write_manifest_rows(store: Store, run: str, keys: Iterable[pa.ChunkedArray], folder: Path) -> None:
    """Put the keys of a run's manifest (hex, in its order), unless the run has them: all who plan it have the same.

    `folder` is for a temporary file. Memory holds one piece of the keys at a time.
    """
    path = paths.manifest_rows(run)
    if store.exists(path):
        return
    temporary = build_manifest_rows(run, keys, folder)
    store.put_if_absent(path, temporary)
    temporary.unlink()


def build_manifest_rows(run: str, keys: Iterable[pa.ChunkedArray], folder: Path) -> Path:
    """Return a file of `folder` that is a run's `rows.parquet`, for the keys of its manifest (hex, in its order)."""
    temporary = folder / "manifest-rows.parquet"
    digest, rows = KeyDigest(), 0
    with open_parquet_writer(temporary, ROWS_SCHEMA, use_dictionary=False) as writer:
        for piece in _join_pieces(keys):
            writer.write_table(pa.Table.from_arrays([piece], schema=ROWS_SCHEMA))
            digest.add_hex(piece)
            rows += len(piece)
        footer = RowsFooter(run, rows, digest.hexdigest())
        writer.add_key_value_metadata({_FOOTER_KEY: json.dumps(asdict(footer))})
    return temporary


def _join_pieces(pieces: Iterable[pa.ChunkedArray]) -> Iterator[pa.ChunkedArray]:
    """Yield the same keys in pieces of `_GROUP_ROWS`, each a row group, so that equal keys make equal files."""
    joined = pa.chunked_array([], pa.string())
    for piece in pieces:
        joined = pa.chunked_array([*joined.chunks, *piece.chunks], pa.string())
        while len(joined) >= _GROUP_ROWS:
            yield pa.chunked_array([joined.slice(0, _GROUP_ROWS).combine_chunks()])
            joined = joined.slice(_GROUP_ROWS)
    if len(joined):
        yield pa.chunked_array([joined.combine_chunks()])


def read_rows_footer(store: Store, run: str) -> RowsFooter:
    """Read what a run's `rows.parquet` says of itself. Raises `StoreError` if it is missing or damaged."""
    try:
        with store.open(paths.manifest_rows(run)) as file:
            metadata = pq.read_metadata(file).metadata or {}
        document = json.loads(metadata[_FOOTER_KEY])
        return RowsFooter(**{name: document[name] for name in RowsFooter.__dataclass_fields__ if name in document})
    except (FileNotFoundError, pa.ArrowException, ValueError, KeyError, TypeError) as error:
        raise _damaged(store, run, error) from None


def read_manifest_keys(store: Store, run: str) -> Iterator[pa.Array]:
    """Yield the keys of a run's manifest in its order. Raises `StoreError` if they are missing or damaged."""
    try:
        with store.open(paths.manifest_rows(run)) as file:
            reader = ParquetReader(file)
            for batch in reader.iter_batches(columns=["key"]):
                yield batch.column(0)
    except (FileNotFoundError, pa.ArrowException) as error:
        raise _damaged(store, run, error) from None


def check_manifest_rows(store: Store, run: str) -> str | None:
    """Compare a run's `rows.parquet` with its own footer; returns what is wrong with it, None if nothing is."""
    try:
        footer = read_rows_footer(store, run)
        digest, rows = KeyDigest(), 0
        for piece in read_manifest_keys(store, run):
            digest.add_hex(piece)
            rows += len(piece)
    except (StoreError, ValueError) as error:
        return str(error)
    if (footer.run, footer.rows, footer.sha256) == (run, rows, digest.hexdigest()):
        return None
    return f"{store.join(paths.manifest_rows(run))} does not hold the {footer.rows} keys of its footer"


def find_current_run(store: Store) -> str | None:
    """Return the run whose manifest is the dataset's current one: the last that was planned, if it is finished.

    A run that is unfinished or superseded is passed over: until a later one is finished, the manifest before it
    counts. None if no run has the keys of its manifest, as in datasets that a release before 0.2 wrote.
    """
    numbers: list[int] = []
    with_rows: set[str] = set()
    superseded: set[str] = set()
    for info in store.list(paths.RUNS):
        if (number := paths.parse_order_entry(info.path)) is not None:
            numbers.append(number)
        elif run := paths.parse_manifest_rows(info.path):
            with_rows.add(run)
        elif run := paths.parse_superseded_note(info.path):
            superseded.add(run)
    for number in sorted(numbers, reverse=True) if with_rows else ():
        outline = PlanOutline.from_json(store.read(paths.order_entry(number)))
        if outline.run in with_rows - superseded and _is_finished(store, outline):
            return outline.run
    return None


def _is_finished(store: Store, outline: PlanOutline) -> bool:
    parts = (paths.parse_index_part(info.path) for info in store.list(paths.index_folder(outline.run)))
    return len({part for part in parts if part is not None}) >= len(outline.shard_rows)


def _damaged(store: Store, run: str, error: Exception) -> StoreError:
    path = store.join(paths.manifest_rows(run))
    if isinstance(error, FileNotFoundError):
        return StoreError(f"{path} is missing; the manifest's rows cannot be told without it: run the job again")
    return StoreError(f"{path} is damaged ({first_line(error)}); delete it, and run the job again")
