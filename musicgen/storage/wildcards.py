"""Expands a URI that is a file, a folder or a glob to the files that it stands for."""

import re
from collections.abc import Iterator
from dataclasses import replace

from musicgen.storage.location import Location, parse_uri
from musicgen.storage.opening import open_store
from musicgen.storage.store import FileInfo, Store

_GLOB = re.compile(r"[*?\[]")


def expand_uri(uri: str) -> list[FileInfo]:
    """List the files that a URI stands for, with full URIs as paths, in order.

    A file is itself. A folder is every file below it, except those whose name, or that of a folder on the way, begins
    with `.` or `_` (as in Spark and Hive). A glob has `*`, `?`, `[...]`, and `**` for folders. Without files it is [].
    Raises `StoreError` if the store cannot be reached.
    """
    location = parse_uri(uri)
    head, _, name = location.root.rpartition("/")
    parent = open_store(Location(location.scheme, head or "/").uri) if _is_below_root(location) else None
    if parent is not None:
        parent.check()
        try:
            return [replace(parent.info(name), path=parent.join(name))]
        except (FileNotFoundError, ValueError):
            pass
    if _GLOB.search(location.prefix):
        return _expand_glob(location)
    store = open_store(uri)
    store.check()
    return [replace(file, path=store.join(file.path)) for file in store.list() if not _is_hidden(file.path)]


def covers_uri(uri: str, file_uri: str) -> bool:
    """Return whether a folder or glob takes in the URI of a file, which need not exist."""
    location, file = parse_uri(uri), parse_uri(file_uri)
    if location.scheme != file.scheme:
        return False
    if _GLOB.search(location.prefix):
        return re.fullmatch(_translate_glob(location.root.split("/")), file.root, re.DOTALL) is not None
    folder = location.root.rstrip("/") + "/"
    return file.root.startswith(folder) and not _is_hidden(file.root.removeprefix(folder))


def _is_below_root(location: Location) -> bool:
    return location.root != "/" and (location.scheme == "file" or "/" in location.root)


def _expand_glob(location: Location) -> list[FileInfo]:
    segments = location.root.split("/")
    begin = 0 if location.scheme == "file" else 1  # the name of a bucket is no pattern
    first = next(position for position in range(begin, len(segments)) if _GLOB.search(segments[position]))
    base = "/".join(segments[:first]) or "/"
    store = open_store(Location(location.scheme, base).uri)
    store.check()
    pattern = re.compile(_translate_glob(segments[first:]), re.DOTALL)
    files = _list_to_depth(store, depth=None if "**" in segments[first:] else len(segments) - first)
    return [replace(file, path=store.join(file.path)) for file in files if pattern.fullmatch(file.path)]


def _list_to_depth(store: Store, depth: int | None) -> Iterator[FileInfo]:
    return (file for file in store.list() if depth is None or file.path.count("/") < depth)


def _translate_glob(segments: list[str]) -> str:
    """Return glob segments as a regular expression: `*` and `?` stay in a segment, `**` is any number of folders."""
    pattern = ""
    for position, segment in enumerate(segments):
        last = position == len(segments) - 1
        if segment == "**":
            pattern += ".*" if last else "(?:[^/]+/)*"
            continue
        pattern += _translate_segment(segment) + ("" if last else "/")
    return pattern


def _translate_segment(segment: str) -> str:
    pattern, position = "", 0
    while position < len(segment):
        character = segment[position]
        if character == "*":
            pattern += "[^/]*"
        elif character == "?":
            pattern += "[^/]"
        elif character == "[" and (end := segment.find("]", position + 2)) > 0:
            body = segment[position + 1 : end].replace("\\", "\\\\")
            pattern += f"[^/{body[1:]}]" if body[0] in "!^" else f"[{body}]"
            position = end
        else:
            pattern += re.escape(character)
        position += 1
    return pattern


def _is_hidden(path: str) -> bool:
    return any(segment.startswith((".", "_")) for segment in path.split("/"))
