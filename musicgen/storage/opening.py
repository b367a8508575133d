"""Opens the store of a URI."""

from musicgen.storage.local import LocalStore
from musicgen.storage.location import parse_uri
from musicgen.storage.store import Store


def open_store(uri: str, single_writer: bool = False) -> Store:
    """Return the store of a folder, of `s3://bucket/prefix`, or of another cloud that fsspec has a driver for.

    The store is not accessed; `Store.check` and `Store.probe` do so. `single_writer` accepts stores without
    put-if-absent, for jobs whose user promises that they are alone. Raises `StoreError` for a URI that cannot be one.
    """
    location = parse_uri(uri)
    if location.scheme == "file":
        return LocalStore(location, single_writer)
    from musicgen.storage.cloud import CloudStore  # imports s3fs

    return CloudStore(location, single_writer)
