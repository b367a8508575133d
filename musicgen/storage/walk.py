"""Finds the files of a folder or a glob: it lists as deep and as wide as the pattern needs, and no folder twice."""

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from musicgen.storage.location import check_path
from musicgen.storage.store import FileInfo, Scan, Store

ANY_DEPTH = "**"
_GLOB = re.compile(r"[*?\[]")
_SYSTEM_FOLDERS = frozenset({"lost+found"})


def is_glob(text: str) -> bool:
    """Whether a text has marks of a glob."""
    return _GLOB.search(text) is not None


def is_hidden(path: str) -> bool:
    """Whether a file below a folder is none of its data: a name on the way begins with `.` or `_`, as in Spark."""
    return any(
        (segment.startswith((".", "_")) and not _is_partition(segment)) or segment in _SYSTEM_FOLDERS
        for segment in path.split("/")
    )


def _is_partition(segment: str) -> bool:
    return "=" in segment and segment.startswith("_")


class Walk:
    """A walk below a store's folder by the segments of a pattern; `pass_hidden` leaves out hidden names.

    Links to folders are followed where the pattern has their names, but none to a folder above, and each target once;
    a file that is also found without a link counts there. Names that no store of ours could have are passed over.
    """

    def __init__(self, store: Store, pass_hidden: bool):
        self.store, self.pass_hidden = store, pass_hidden
        self._local = store.location.scheme == "file"
        self._root = os.path.realpath(store.uri) if self._local else ""
        self._walks_all = False  # below the root, so that no link within it gives more
        self._followed: dict[str, str] = {}  # link -> its target
        self._last: tuple[tuple[str, str], Scan] | None = None

    def find(self, segments: Sequence[str]) -> list[FileInfo]:
        """Return the files whose paths match the segments, in the order of their paths."""
        self._walks_all = all(segment == ANY_DEPTH for segment in segments[:-1])
        files = {file.path: file for file in self._match("", tuple(segments))}
        return [files[path] for path in sorted(files, key=os.fsencode) if not self._is_link_to_another(path, files)]

    def _match(self, folder: str, segments: tuple[str, ...]) -> Iterator[FileInfo]:
        head, rest = segments[0], segments[1:]
        if head == ANY_DEPTH:
            yield from self._match_any_depth(folder, segments)
        elif not is_glob(head):
            yield from self._match_name(_join(folder, head), rest)
        else:
            pattern = re.compile(translate_segment(head), re.DOTALL)
            stem = head[: _GLOB.search(head).start()]  # type: ignore[union-attr]
            scan = self._scan(folder, stem)
            if not rest:
                yield from (file for file in scan.files if pattern.fullmatch(file.path.rpartition("/")[2]))
                return
            links = (name for name in scan.links if pattern.fullmatch(name))
            for name in [*filter(pattern.fullmatch, scan.folders), *self._choose_links(folder, links)]:
                yield from self._match(_join(folder, name), rest)

    def _match_name(self, path: str, rest: tuple[str, ...]) -> Iterator[FileInfo]:
        if rest:
            yield from self._match(path, rest)
            return
        try:
            yield replace(self.store.info(path), path=path)
        except FileNotFoundError:
            return

    def _match_any_depth(self, folder: str, segments: tuple[str, ...]) -> Iterator[FileInfo]:
        rest = segments[1:] or ("*",)
        if not self._local:  # one flat listing has a thousand objects a request
            pattern = re.compile(translate_segments(segments), re.DOTALL)
            start = len(folder) + 1 if folder else 0
            yield from (
                file for file in self.store.list(folder) if _is_name(file.path) and pattern.fullmatch(file.path[start:])
            )
            return
        yield from self._match(folder, rest)
        scan = self._scan(folder, "")
        folders, links = ([name for name in names if not (self.pass_hidden and is_hidden(name))] for names in scan[1:])
        for name in [*folders, *self._choose_links(folder, links)]:
            yield from self._match_any_depth(_join(folder, name), segments)

    def _scan(self, folder: str, stem: str) -> Scan:
        """Return the files, folders and links in a folder whose names can be in a store."""
        if self._last is None or self._last[0] != (folder, stem):
            files, folders, links = self.store.scan(folder, stem)
            scan = Scan([file for file in files if _is_name(file.path)], *map(_take_names, (folders, links)))
            self._last = (folder, stem), scan
        return self._last[1]

    def _choose_links(self, folder: str, names: Iterable[str]) -> Iterator[str]:
        """Yield those of a folder's links that are to be followed."""
        for name in names:
            link = _join(folder, name)
            target = os.path.realpath(f"{self.store.uri}/{link}")
            others = [other for path, other in self._followed.items() if path != link]
            others += [self._root] if self._walks_all or _is_within(self._root, target) else []
            if not any(_is_within(target, other) or _is_within(other, target) for other in others):
                self._followed[link] = target
                yield name

    def _is_link_to_another(self, path: str, files: dict[str, FileInfo]) -> bool:
        if not self._local:
            return False
        full_path = f"{self.store.uri}/{path}"
        if not os.path.islink(full_path) and not any(_is_within(path, link) for link in self._followed):
            return False
        target = os.path.realpath(full_path)
        return _is_within(target, self._root) and os.path.relpath(target, self._root) in files


def _join(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder else name


def _is_within(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip("/") + "/")


def _take_names(names: Iterable[str]) -> list[str]:
    return [name for name in names if _is_name(name)]


def _is_name(path: str) -> bool:
    try:
        check_path(path)
        path.encode()
    except ValueError:
        return False
    return True


def translate_segments(segments: Sequence[str]) -> str:
    """Return glob segments as a regular expression: `*` and `?` stay in a segment, `**` is any number of folders."""
    pattern = ""
    for position, segment in enumerate(segments):
        last = position == len(segments) - 1
        if segment == ANY_DEPTH:
            pattern += ".*" if last else "(?:[^/]+/)*"
            continue
        pattern += translate_segment(segment) + ("" if last else "/")
    return pattern


def translate_segment(segment: str) -> str:
    """Return one segment of a glob as a regular expression."""
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
