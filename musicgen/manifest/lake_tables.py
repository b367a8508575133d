"""Folders that are tables with a log: which of their files count is known from the log alone.

A Delta table is read by its log (extra `delta`). Tables of other kinds are refused by name.
"""

from collections.abc import Iterator
from contextlib import nullcontext, suppress
from importlib.util import find_spec
from urllib.parse import unquote

from musicgen.errors import ManifestError, StoreDenied, first_line
from musicgen.parallel import map_ordered
from musicgen.storage import covers_uri, open_store
from musicgen.storage.location import parse_uri
from musicgen.storage.store import FileInfo
from musicgen.storage.wildcards import find_base

_LOGS = {"_delta_log": "Delta", ".hoodie": "Hudi"}
_LOOKED_AT = 8  # folders in which a table's log is looked for
_UNREAD_FEATURES = ("deletionVectors", "columnMapping")


def choose_table_files(uri: str, files: list[FileInfo]) -> list[FileInfo]:
    """Return the Parquet files of a manifest that count: all, or those that the table's log names.

    Raises `ManifestError` for a table whose log cannot be read, and for a part of a table.
    """
    base = find_base(uri)
    if not files or files[0].path == base:
        return files
    kind = _find_kind(base)
    if kind is None:
        _refuse_parts_of_tables(uri, base, files)
        return files
    if kind != "Delta":
        raise ManifestError(
            f"{uri}: this is a table of {kind}, and which of its files count is in its log; export its rows, for "
            "example to one Parquet file"
        )
    live = _read_delta(uri, base)
    listed = [file for file in files if file.path in live or unquote(file.path) in live]
    wanted = live if base == parse_uri(uri).uri else {path for path in live if covers_uri(uri, path)}
    missing = sorted(wanted.difference(*({file.path, unquote(file.path)} for file in listed)))
    if missing:
        more = f" and {len(missing) - 1} more" if missing[1:] else ""
        raise ManifestError(f"{uri}: the log of this Delta table names what is not there: {missing[0]}{more}")
    return listed


def _refuse_parts_of_tables(uri: str, base: str, files: list[FileInfo]) -> None:
    """Raise `ManifestError` if a table lies below the manifest's folder, or the folder is a part of one."""
    parents = {_parent(file.path) for file in files}
    above = set(_list_above(base))
    below = {folder for parent in parents for folder in (parent, *_list_above(parent))} - {base, *above}
    inner = sorted(below, key=lambda folder: (folder.count("/"), folder))[:_LOOKED_AT]
    folders = [*above, *inner]

    def find_kind(folder: str) -> str | None:
        with suppress(StoreDenied) if folder in above else nullcontext():  # it is none of the manifest's
            return _find_kind(folder)
        return None

    for folder, kind in zip(folders, map_ordered(find_kind, folders, threads=_LOOKED_AT), strict=True):
        if kind is not None:
            raise ManifestError(f"{uri}: {folder} is a table of {kind}; name it alone as the manifest")


def _list_above(folder: str) -> Iterator[str]:
    """Yield the folders above one that may be a table of which it is a part: of a partition, or Iceberg's data."""
    while "=" in (name := folder.rpartition("/")[2]) or name == "data":
        if not parse_uri(folder).prefix.strip("/"):  # a bucket
            return
        folder = _parent(folder) or "/"
        yield folder


def _parent(path: str) -> str:
    return path.rpartition("/")[0]


def _find_kind(folder: str) -> str | None:
    """Return which kind of table a folder is; None for plain files."""
    store = open_store(folder)
    for name, kind in _LOGS.items():
        if name in store.scan("", name).folders:
            return kind
    if "metadata" in store.scan("", "metadata").folders:
        metadata = store.scan("metadata", "").files
        if any(file.path.endswith((".metadata.json", "version-hint.text")) for file in metadata):
            return "Iceberg"
    return None


def _read_delta(uri: str, base: str) -> set[str]:
    """Return the paths of the files that a Delta table has in its latest version."""
    if find_spec("deltalake") is None:
        raise ManifestError(
            f"{uri}: this is a table of Delta, and which of its files count is in its log; to read it, "
            "pip install '.[delta]', or export its rows"
        )
    import deltalake

    try:
        table = deltalake.DeltaTable(base, storage_options=_storage_options(base))
        features = set(table.protocol().reader_features or ())
        has_mapping = table.metadata().configuration.get("delta.columnMapping.mode", "none") != "none"
        paths = {path.removeprefix("file://") for path in table.file_uris()}
    except Exception as error:  # of several kinds, without a common class
        raise ManifestError(f"{uri}: the log of this Delta table cannot be read: {first_line(error)}") from None
    unread = [feature for feature in _UNREAD_FEATURES if feature in features]
    if unread or has_mapping:
        raise ManifestError(
            f"{uri}: this Delta table has {' and '.join(unread or ['columnMapping'])}, which is not read; export its "
            "rows, for example to one Parquet file"
        )
    return paths


def _storage_options(uri: str) -> dict[str, str]:
    """Return the endpoint and credentials that our own requests have; deltalake knows no profiles."""
    if not uri.startswith("s3://"):
        return {}
    from musicgen.storage.s3_client import find_s3_access  # imports botocore and aiohttp

    access = find_s3_access()
    options = {
        "aws_access_key_id": access.access_key,
        "aws_secret_access_key": access.secret_key,
        "aws_session_token": access.session_token,
    }
    if ".amazonaws." not in access.endpoint:  # AWS's own it finds by itself
        options["aws_endpoint"] = access.endpoint
        options["aws_allow_http"] = str(access.endpoint.startswith("http://")).lower()
        options["aws_region"] = access.region
    elif access.region != "aws-global":
        options["aws_region"] = access.region
    return {name: value for name, value in options.items() if value}
