"""From a URI to a store."""

from musicgen.storage.local import LocalStore
from musicgen.storage.location import parse_uri
from musicgen.storage.store import Store


def open_store(uri: str, single_writer: bool = False) -> Store:
    """The store at a folder, `s3://bucket/prefix`, or another cloud that fsspec has a driver for.

    Touches nothing; `Store.check` and `Store.probe` do. `single_writer` accepts stores without put-if-absent, for
    jobs that promise to be alone. Raises `StoreError` for a URI that cannot be storage.
    """
    location = parse_uri(uri)
    if location.scheme == "file":
        return LocalStore(location, single_writer)
    from musicgen.storage.cloud import CloudStore  # imports s3fs

    return CloudStore(location, single_writer)
