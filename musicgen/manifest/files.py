"""The files of a manifest: listed, told apart by format, and opened."""

import gzip
import io
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import BinaryIO, Literal, cast

from musicgen import dataset_paths as paths
from musicgen.errors import ManifestError, StoreError, first_line
from musicgen.manifest.lake_tables import choose_table_files
from musicgen.manifest.partitions import read_partitions
from musicgen.manifest.text_lines import decode_file
from musicgen.storage import covers_uri, expand_uri, open_store
from musicgen.storage.location import parse_uri
from musicgen.storage.wildcards import find_base

Format = Literal["parquet", "jsonl", "csv"]
SUFFIXES: dict[str, Format] = {
    ".parquet": "parquet",
    ".pq": "parquet",
    ".jsonl": "jsonl",
    ".jsonl.gz": "jsonl",
    ".ndjson": "jsonl",
    ".ndjson.gz": "jsonl",
    ".csv": "csv",
    ".csv.gz": "csv",
    ".tsv": "csv",
    ".tsv.gz": "csv",
}
_TAB_SUFFIXES = (".tsv", ".tsv.gz")
_GZIP_MAGIC = b"\x1f\x8b"
_BUFFER = 1 << 20


@dataclass(frozen=True, slots=True)
class ManifestFile:
    """One file of a manifest: its full URI and its format."""

    uri: str
    format: Format
    partitions: tuple[tuple[str, str | None], ...] = ()  # what the names of its folders say, as in Hive: column, value

    @property
    def has_tabs(self) -> bool:
        """Whether it is CSV that is separated by tabs, by its name."""
        return self.uri.lower().endswith(_TAB_SUFFIXES)

    @property
    def folder(self) -> str:
        """The URI of its folder, where relative paths of its melodies start."""
        return self.uri.rpartition("/")[0] or "/"


def find_files(uri: str, output: str = "") -> list[ManifestFile]:
    """List the files that a manifest URI (file, folder or glob) stands for, in the order of their names.

    In a folder, files of other kinds are skipped; given by name or by a glob, they are an error. `output` is the
    dataset's canonical URI: what a run writes there is never a manifest. Raises `ManifestError` if there is no file, or
    more than one format; `StoreError` if the store cannot be used.
    """
    files = expand_uri(uri)
    if any(_guess_format(info.path) == "parquet" for info in files):
        files = choose_table_files(uri, files)
    if not files:
        raise ManifestError(f"{uri}: there is no such manifest: no file, no folder with files, and no match as a glob")
    base = find_base(uri)
    known = [
        ManifestFile(info.path, file_format, read_partitions(base, info.path))
        for info in files
        if (file_format := _guess_format(info.path))
    ]
    named = len(files) == 1 or any(mark in uri for mark in "*?[")
    if len(known) < len(files) and (named or not known):
        other = next(info.path for info in files if not _guess_format(info.path))
        raise ManifestError(f"{other}: not a manifest by its name; it must end with {', '.join(SUFFIXES)}")
    if not named and any(not file.has_tabs for file in known):
        known = [file for file in known if not file.has_tabs]  # as before they could be read
    if output:
        _refuse_output(uri, known, output.rstrip("/"))
    formats = sorted({file.format for file in known})
    if len(formats) > 1:
        raise ManifestError(
            f"{uri} mixes {' and '.join(formats)} files; name one kind by a glob, such as "
            f"{uri.rstrip('/')}/*.{formats[0]}"
        )
    return known


def _refuse_output(uri: str, files: list[ManifestFile], output: str) -> None:
    """Raise `ManifestError` if the manifest takes in, or on a later run would take in, what the job itself writes."""
    written_files = [f"{output}/{name}" for name in paths.WRITTEN_FILES]
    written_folders = tuple(f"{output}/{folder}/" for folder in paths.WRITTEN_FOLDERS)
    uris = [file.uri for file in files]
    taken = next((name for name in uris if name in written_files or name.startswith(written_folders)), None)
    if taken is None and parse_uri(uri).uri not in uris:  # a folder or a glob
        later = (*written_files, f"{output}/{paths.index_part('run', 0)}")
        taken = next((path for path in later if _guess_format(path) and covers_uri(uri, path)), None)
    if taken:
        raise ManifestError(
            f"{taken}: the manifest {uri} takes in what the job itself writes; move one of them, or use a glob"
        )


def _guess_format(path: str) -> Format | None:
    lower = path.lower()
    return next((file_format for suffix, file_format in SUFFIXES.items() if lower.endswith(suffix)), None)


@contextmanager
def open_file(file: ManifestFile) -> Iterator[BinaryIO]:
    """Open a file for seekable reading. An error while it is read is raised as a `ManifestError` that names it."""
    try:
        folder, _, name = file.uri.rpartition("/")
        with open_store(folder or "/").open(name) as raw:
            yield raw
    except FileNotFoundError:
        raise ManifestError(f"{file.uri}: the manifest file has gone") from None
    except (StoreError, OSError) as error:
        raise ManifestError(f"{file.uri}: the manifest cannot be read: {first_line(error)}") from error


@contextmanager
def open_text(file: ManifestFile, encoding: str = "utf-8") -> Iterator[BinaryIO]:
    """Open a file for buffered reading, unpacked if it is gzip, as UTF-8 (`decode_file`). Raises `ManifestError`."""
    with open_file(file) as raw:
        buffered = io.BufferedReader(cast(io.RawIOBase, raw), _BUFFER)
        packed = buffered.peek(2)[:2] == _GZIP_MAGIC
        if file.uri.lower().endswith(".gz") and not packed and buffered.peek(1):
            raise ManifestError(f"{file.uri}: named .gz, but its content is not gzip")
        text = io.BufferedReader(cast(io.RawIOBase, gzip.GzipFile(fileobj=buffered)), _BUFFER) if packed else buffered
        try:
            yield decode_file(cast(BinaryIO, text), encoding)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise ManifestError(f"{file.uri}: the gzip data is damaged or cut off ({first_line(error)})") from None
        except UnicodeError as error:
            raise ManifestError(
                f"{file.uri}: cannot be read as {encoding} ({first_line(error)}); say how it is encoded, such as "
                "manifest.csv: {encoding: utf-16-le}"
            ) from None
