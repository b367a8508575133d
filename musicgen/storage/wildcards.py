"""Expands a URI that is a file, a folder or a glob to the files that it stands for."""

import re
from dataclasses import replace

from musicgen.storage.location import Location, parse_uri
from musicgen.storage.opening import open_store
from musicgen.storage.store import FileInfo
from musicgen.storage.walk import ANY_DEPTH, Walk, is_glob, is_hidden, translate_segments

# Hidden names, and what programs leave beside their data: locks, checksums, unfinished copies, Spark's marks.
_LEFT_BESIDE = re.compile(
    r"(^|/)(\.[^/]*|~\$[^/]*|_SUCCESS|_(started|committed)_[^/]*|_(common_)?metadata|[^/]*"
    r"(\.(crc|md5|sha1|sha256|sha512|tmp|part|crdownload|bak)|~))$",
    re.IGNORECASE,
)


def expand_uri(uri: str) -> list[FileInfo]:
    """List the files that a URI stands for, with full URIs as paths, in order.

    A file is itself. A folder is every file below it, except those whose name, or that of a folder on the way, begins
    with `.` or `_` (as in Spark and Hive). A glob has `*`, `?`, `[...]`, and `**` for folders, and passes over files
    whose names begin with `.` and those that programs leave beside their data. Without files it is [].
    Raises `StoreError` if the store cannot be reached.
    """
    location = parse_uri(uri)
    head, _, name = location.root.rpartition("/")
    parent = open_store(Location(location.scheme, head or "/").uri) if _is_below_root(location) else None
    if parent is not None:
        try:
            return [replace(parent.info(name), path=parent.join(name))]
        except (FileNotFoundError, ValueError):
            pass
    if is_glob(location.prefix):
        return _expand_glob(location)
    store = open_store(uri)
    store.check()
    files = Walk(store, pass_hidden=True).find([ANY_DEPTH])
    return [replace(file, path=store.join(file.path)) for file in files if not _is_beside(file.path)]


def find_base(uri: str) -> str:
    """Return the folder from which a URI is expanded: itself, or a glob's part without marks."""
    location = parse_uri(uri)
    if not is_glob(location.prefix):
        return location.uri
    return Location(location.scheme, _split_glob(location)[0]).uri


def _is_beside(path: str) -> bool:
    """Whether a file below a folder is none of its data."""
    return is_hidden(path) or _LEFT_BESIDE.search(path) is not None


def covers_uri(uri: str, file_uri: str) -> bool:
    """Return whether a folder or glob takes in the URI of a file, which need not exist."""
    location, file = parse_uri(uri), parse_uri(file_uri)
    if location.scheme != file.scheme:
        return False
    if is_glob(location.prefix):
        return re.fullmatch(translate_segments(location.root.split("/")), file.root, re.DOTALL) is not None
    folder = location.root.rstrip("/") + "/"
    return file.root.startswith(folder) and not is_hidden(file.root.removeprefix(folder))


def _is_below_root(location: Location) -> bool:
    return location.root != "/" and (location.scheme == "file" or "/" in location.root)


def _split_glob(location: Location) -> tuple[str, list[str]]:
    """Return the folder before the first segment with marks, and the segments from there on."""
    segments = location.root.split("/")
    begin = 0 if location.scheme == "file" else 1  # the name of a bucket is no pattern
    first = next(position for position in range(begin, len(segments)) if is_glob(segments[position]))
    return "/".join(segments[:first]) or "/", segments[first:]


def _expand_glob(location: Location) -> list[FileInfo]:
    base, segments = _split_glob(location)
    store = open_store(Location(location.scheme, base).uri)
    store.check()
    files = Walk(store, pass_hidden=False).find(segments)
    is_plain = not segments[-1].startswith(".")
    return [
        replace(file, path=store.join(file.path)) for file in files if not (is_plain and _LEFT_BESIDE.search(file.path))
    ]
