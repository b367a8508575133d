"""From a URI that may be a file, a folder or a glob to the files it means."""

import re
from collections.abc import Iterator
from dataclasses import replace

from musicgen.storage.location import Location, parse_uri
from musicgen.storage.opening import open_store
from musicgen.storage.store import FileInfo, Store

_GLOB = re.compile(r"[*?\[]")


def expand_uri(uri: str) -> list[FileInfo]:
    """The files that a URI means, with full URIs as paths, in order.

    A file is itself; a folder is every file below it except those whose name, or a folder's on the way, begins with
    `.` or `_` (as Spark and Hive have it); a glob knows `*`, `?`, `[...]` and `**` over folders. Nothing found: [].
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


def _is_below_root(location: Location) -> bool:
    return location.root != "/" and (location.scheme == "file" or "/" in location.root)


def _expand_glob(location: Location) -> list[FileInfo]:
    segments = location.root.split("/")
    first = next(i for i, segment in enumerate(segments) if _GLOB.search(segment) and (i or location.scheme == "file"))
    base = "/".join(segments[:first]) or "/"
    store = open_store(Location(location.scheme, base).uri)
    store.check()
    pattern = re.compile(_translate_glob(segments[first:]), re.DOTALL)
    found = _list_to_depth(store, depth=None if "**" in segments[first:] else len(segments) - first)
    return [replace(file, path=store.join(file.path)) for file in found if pattern.fullmatch(file.path)]


def _list_to_depth(store: Store, depth: int | None) -> Iterator[FileInfo]:
    return (file for file in store.list() if depth is None or file.path.count("/") < depth)


def _translate_glob(segments: list[str]) -> str:
    """Glob segments as a regular expression; `*` and `?` stay within a segment, `**` is any number of folders."""
    pattern = ""
    for i, segment in enumerate(segments):
        last = i == len(segments) - 1
        if segment == "**":
            pattern += ".*" if last else "(?:[^/]+/)*"
            continue
        pattern += _translate_segment(segment) + ("" if last else "/")
    return pattern


def _translate_segment(segment: str) -> str:
    out, i = "", 0
    while i < len(segment):
        char = segment[i]
        if char == "*":
            out += "[^/]*"
        elif char == "?":
            out += "[^/]"
        elif char == "[" and (end := segment.find("]", i + 2)) > 0:
            body = segment[i + 1 : end].replace("\\", "\\\\")
            out += f"[^/{body[1:]}]" if body[0] in "!^" else f"[{body}]"
            i = end
        else:
            out += re.escape(char)
        i += 1
    return out


def _is_hidden(path: str) -> bool:
    return any(segment.startswith((".", "_")) for segment in path.split("/"))
