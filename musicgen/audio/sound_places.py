"""Checks where a manifest says that a sound lies: which places are allowed, and how a URI is named in messages."""

import os
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import unquote, urlsplit

from musicgen.errors import RowError

REMOTE_SCHEMES = frozenset({"s3"})


def resolve_uri(uri: str, *, subject: str = "melody", roots: Sequence[str | os.PathLike[str]] | None = None) -> str:
    """Resolve `uri`: an s3:// URI is returned as it is, a local file as an absolute path without links or `..`.

    Reads no file's content and uses no network. A relative path starts at the first of `roots` that is local. Raises
    RowError("melody") for other schemes, other hosts, local files outside `roots`, and, if one of these is in a store,
    objects outside them; the message does not reveal whether such a file exists.
    """
    remote_roots = [str(root) for root in roots or () if "://" in str(root)]
    if roots is not None:
        roots = [root for root in roots if "://" not in str(root)]
    try:
        split_uri = urlsplit(uri)
    except ValueError:  # such as brackets that are no IPv6 address
        split_uri = None
    if split_uri is None or not uri.strip() or "\0" in uri:
        raise RowError("melody", f"{subject} is not a path or URI: {redact_uri(uri)!r}")
    scheme = split_uri.scheme.lower()
    if scheme in REMOTE_SCHEMES:
        if not split_uri.netloc or not split_uri.path.strip("/"):
            raise RowError(
                "melody", f"{subject} {redact_uri(uri)} names no object: write {scheme}://bucket/path/to/file.wav"
            )
        if remote_roots and not any(_lies_below(uri, root) for root in remote_roots):
            raise RowError(
                "melody",
                f"{subject} {redact_uri(uri)} is outside manifest.melody_roots: move it, or add its prefix there",
            )
        return uri
    if "://" in uri and scheme != "file":
        raise RowError(
            "melody",
            f"{subject} {redact_uri(uri)}: {scheme}:// is not allowed, use s3:// or a file beside the manifest",
        )
    if scheme == "file":
        if split_uri.netloc not in ("", "localhost"):
            raise RowError(
                "melody", f"{subject} {redact_uri(uri)} names a file on another host: use s3:// or a local path"
            )
        path = Path(unquote(split_uri.path))
    else:
        path = Path(uri)
    if not path.is_absolute() and roots:
        path = Path(roots[0]) / path
    resolved = _resolve_links(path)
    if roots is not None and not any(resolved.is_relative_to(_resolve_links(Path(root))) for root in roots):
        raise RowError(
            "melody",
            f"{subject} {redact_uri(uri)} is outside the manifest's own folder: move it there, or add its folder to "
            "manifest.melody_roots",
        )
    return str(resolved)


def collect_roots(folder: str, roots: Sequence[str]) -> list[str]:
    """Return the places that the files of a manifest in `folder` may come from: the job's `roots`, and the folder.

    A manifest in a store may name any object unless the roots name some store.
    """
    if "://" in folder and not any("://" in root for root in roots):
        return list(roots)
    return [folder, *roots]


def redact_uri(uri: str) -> str:
    """Return a URI for messages: without user, password or query (they may be secrets), at most 200 characters."""
    scheme, separator, rest = uri.partition("://")
    if separator:
        host, slash, path = rest.partition("/")
        # An object's name may contain ? and #; in a web address secrets may follow them.
        if scheme.lower() not in REMOTE_SCHEMES:
            path = path.partition("?")[0].partition("#")[0]
            host = host.partition("?")[0].partition("#")[0]
        uri = f"{scheme}://{host.rpartition('@')[2]}{slash}{path}"
    return uri if len(uri) <= 200 else f"{uri[:100]}...{uri[-90:]}"


def _lies_below(uri: str, root: str) -> bool:
    """Whether an object's URI begins with the folder `root`; s3:// and s3a:// are one scheme."""
    path, prefix = (text.partition("://")[2] for text in (uri, root))
    return path.startswith(prefix.rstrip("/") + "/") and ".." not in path.split("/")


def _resolve_links(path: Path) -> Path:
    try:
        return path.resolve()
    except (OSError, RuntimeError):  # a loop of links, a name that is too long
        return Path(os.path.normpath(path.absolute()))


def is_remote(location: str) -> bool:
    """Whether the sound lies in a store."""
    return urlsplit(location).scheme.lower() in REMOTE_SCHEMES
